use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::intent::types::Config;

/// A host made of files: this process in namespace 1, and whatever else a test adds.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fake.process("self", "backtrail", &["backtrail", "doctor"], "net:[1]");
        fake
    }

    fn host(&self) -> Host {
        Host::at(self.0.path())
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: &str, name: &str, arguments: &[&str], net: &str) {
        self.file(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        self.file(&format!("proc/{pid}/cmdline"), &format!("{}\0", arguments.join("\0")));
        let dir = self.0.path().join("proc").join(pid);
        fs::create_dir_all(dir.join("ns")).unwrap();
        symlink(net, dir.join("ns/net")).unwrap();
        symlink(if pid == "self" { "mnt:[1]" } else { "mnt:[2]" }, dir.join("ns/mnt")).unwrap();
        symlink(Path::new("/"), dir.join("root")).unwrap();
    }

    /// What zebra's checks say of one zebra with these options, no agent running.
    fn zebra(options: &[&str]) -> Vec<Finding> {
        Self::configured_zebra(options, None)
    }

    fn configured_zebra(options: &[&str], offload_ack: Option<bool>) -> Vec<Finding> {
        let fake = Self::new();
        let arguments = [&["/usr/lib/frr/zebra", "-d", "-A", "127.0.0.1"], options].concat();
        fake.process("100", "zebra", &arguments, "net:[1]");
        frr::check(&fake.host(), listen(), false, offload_ack)
    }
}

fn listen() -> SocketAddr {
    "127.0.0.1:2620".parse().unwrap()
}

fn find<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    findings
        .iter()
        .find(|finding| finding.check.to_string() == check)
        .unwrap_or_else(|| panic!("{check} in {findings:#?}"))
}

fn severity(findings: &[Finding], check: &str) -> Severity {
    find(findings, check).severity
}

#[test]
fn zebra_without_the_module_is_an_error_with_its_fix() {
    let findings = Fake::zebra(&[]);
    let module = find(&findings, "frr-module");
    assert_eq!(module.severity, Severity::Error);
    assert!(
        module.fix.contains("-M dplane_fpm_nl") && module.fix.contains("/etc/frr/daemons"),
        "{}",
        module.fix
    );
}

#[test]
fn the_module_is_found_in_each_form() {
    for options in [
        &["-M", "dplane_fpm_nl"][..],
        &["-Mdplane_fpm_nl"],
        &["--module", "dplane_fpm_nl"],
        &["--module=dplane_fpm_nl"],
        &["-M", "snmp", "-M", "/usr/lib/frr/modules/zebra_dplane_fpm_nl"],
    ] {
        let module = &Fake::zebra(options);
        assert_eq!(severity(module, "frr-module"), Severity::Ok, "{options:?}");
    }
    assert_eq!(severity(&Fake::zebra(&["-M", "fpm:netlink"]), "frr-module"), Severity::Warning);
}

#[test]
fn the_routing_table_is_judged() {
    for (options, expected) in [
        (&["-R", "5000"][..], Severity::Ok),
        (&["-R5000"], Severity::Ok),
        (&["--routing-table=5000"], Severity::Ok),
        (&["-R", "254"], Severity::Warning),
        (&["-R", "many"], Severity::Warning),
        (&[], Severity::Note),
    ] {
        assert_eq!(severity(&Fake::zebra(options), "frr-routing-table"), expected, "{options:?}");
    }
}

#[test]
fn zebra_and_agent_agree_on_feedback() {
    const WAITS: &[&str] = &["--asic-offload=notify_on_offload"];
    for (options, offload_ack, expected) in [
        (WAITS, Some(true), Some(Severity::Ok)),
        (WAITS, Some(false), Some(Severity::Warning)),
        (WAITS, None, Some(Severity::Note)),
        (&["--asic-offload"], Some(true), Some(Severity::Note)),
        (&[], Some(true), Some(Severity::Note)),
        (&[], Some(false), None),
        (&["--asic-offload=notify_on_ack"], None, None),
    ] {
        let findings = Fake::configured_zebra(options, offload_ack);
        let found = findings.iter().find(|finding| finding.check == Check::FrrFeedback);
        assert_eq!(found.map(|finding| finding.severity), expected, "{options:?} {offload_ack:?}");
    }
}

#[test]
fn a_zebra_of_another_namespace_is_not_ours() {
    let fake = Fake::new();
    fake.process("100", "zebra", &["/usr/lib/frr/zebra", "-M", "dplane_fpm_nl"], "net:[2]");
    let findings = frr::check(&fake.host(), listen(), false, None);
    assert_eq!(severity(&findings, "frr-zebra"), Severity::Error);
}

#[test]
fn two_zebras_are_named() {
    let fake = Fake::new();
    for pid in ["100", "200"] {
        fake.process(pid, "zebra", &["/usr/lib/frr/zebra"], "net:[1]");
    }
    let findings = frr::check(&fake.host(), listen(), false, None);
    let zebra = find(&findings, "frr-zebra");
    assert_eq!(zebra.severity, Severity::Warning);
    assert!(zebra.what.contains("100, 200"), "{}", zebra.what);
}

#[test]
fn versions_as_zebra_prints_them() {
    use crate::host::zebra::{Version, parse_version};
    assert_eq!(parse_version("zebra version 8.4.4\nCopyright"), Some(Version(8, 4)));
    assert_eq!(parse_version("zebra version 10.3-dev\n"), Some(Version(10, 3)));
    assert_eq!(parse_version("zebra: unknown"), None);
    assert!(Version(10, 0) > Version(9, 1));
}

#[test]
fn a_zebra_of_another_container_shows_by_its_sockets() {
    use crate::host::zebra::look;
    use crate::preflight::Zebra;
    let fake = Fake::new();
    assert_eq!(look(&fake.host()), Zebra::Absent);
    fake.file(
        "proc/self/net/unix",
        "Num       RefCount Protocol Flags    Type St Inode Path\n\
         0000000000000000: 00000002 00000000 00010000 0001 01 21537 /run/other.sock\n\
         0000000000000000: 00000002 00000000 00010000 0001 01 21538 /var/run/frr/zserv.api\n",
    );
    assert_eq!(look(&fake.host()), Zebra::Hidden);
    fake.process("100", "zebra", &["/usr/lib/frr/zebra", "-M", "dplane_fpm_nl"], "net:[1]");
    // Its program is not one of our files: its version stays unknown.
    assert_eq!(look(&fake.host()), Zebra::Seen { module: true, version: None });
}

/// Lines of `/proc/net/tcp` as Linux on a little-endian machine prints them.
#[cfg(target_endian = "little")]
#[test]
fn the_session_is_seen_in_the_socket_table() {
    const HEADER: &str = "  sl  local_address rem_address   st\n";
    const LISTEN: &str = "   0: 0100007F:0A3C 00000000:0000 0A 00000000:00000000\n";
    const SESSION: &str = "   1: 0100007F:0A3C 0100007F:C350 01 00000000:00000000\n";
    let verdict = |lines: &str, agent| {
        let fake = Fake::new();
        fake.file("proc/self/net/tcp", &format!("{HEADER}{lines}"));
        fake.process("100", "zebra", &["/usr/lib/frr/zebra", "-M", "dplane_fpm_nl"], "net:[1]");
        find(&frr::check(&fake.host(), listen(), agent, None), "fpm-session").clone()
    };
    let session = verdict(&format!("{LISTEN}{SESSION}"), true);
    assert_eq!(session.severity, Severity::Ok);
    assert!(session.what.contains("127.0.0.1:50000"), "{}", session.what);
    let alone = verdict(LISTEN, true);
    assert_eq!(alone.severity, Severity::Error);
    assert!(alone.fix.contains("fpm address 127.0.0.1 port 2620"), "{}", alone.fix);
    assert_eq!(verdict(LISTEN, false).severity, Severity::Error);
    assert_eq!(verdict("", true).severity, Severity::Error);
    assert_eq!(verdict("", false).severity, Severity::Note);
}

#[test]
fn strict_reverse_path_filters_are_listed() {
    let fake = Fake::new();
    let set = |name: &str, value: &str| {
        fake.file(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter"), &format!("{value}\n"));
    };
    for (name, value) in
        [("all", "0"), ("default", "1"), ("lo", "1"), ("eth0", "2"), ("eth1", "1"), ("eth2", "0")]
    {
        set(name, value);
    }
    let findings = node::check(&fake.host(), fake.0.path(), false);
    assert_eq!(find(&findings, "rp-filter").what, "strict on eth1");
    set("all", "2");
    assert_eq!(severity(&node::check(&fake.host(), fake.0.path(), false), "rp-filter"), Severity::Ok);
}

#[test]
fn return_paths_need_interfaces_that_forward_and_announce_themselves() {
    use crate::intent::types::Intent;
    let fake = Fake::new();
    let set = |key: &str, value: &str| fake.file(&format!("proc/sys/net/{key}"), &format!("{value}\n"));
    for name in ["all", "eth0", "eth1", "lo"] {
        set(&format!("ipv4/conf/{name}/arp_announce"), "0");
        set(&format!("ipv4/conf/{name}/forwarding"), if name == "eth1" { "1" } else { "0" });
    }
    let intent = |source: &str| {
        let text = format!(
            "{{apiVersion: backtrail.dev/v1alpha1, kind: ReturnPath, metadata: {{name: rp}}, \
             spec: {{interfaces: [{{name: 'eth*', gateway: {{source: {source}}}}}]}}}}"
        );
        let loaded = intent::load_text(Path::new("test.yaml"), &text);
        assert_eq!(loaded.errors, []);
        intent::build(&loaded, &BTreeMap::new(), None)
    };
    let findings = |intent: &Intent| {
        let listed = returns::listed(&fake.host(), intent, None);
        returns::check(&fake.host(), &listed)
    };
    assert!(findings(&Intent::default()).is_empty(), "nothing is steered");
    assert_eq!(severity(&findings(&intent("Auto")), "forwarding"), Severity::Note);
    let found = findings(&intent("FromRoute"));
    let forwarding = find(&found, "forwarding");
    assert_eq!(forwarding.severity, Severity::Warning);
    assert!(forwarding.what.ends_with("eth0 (IPv4)") && forwarding.fix.contains("Static"), "{forwarding:?}");
    let announce = find(&found, "arp-announce");
    assert!(
        announce.what.ends_with("on eth0, eth1") && announce.fix.contains("arp_announce=2"),
        "{announce:?}"
    );
    set("ipv4/conf/eth0/forwarding", "1");
    set("ipv6/conf/eth0/forwarding", "0");
    assert!(find(&findings(&intent("FromRoute")), "forwarding").what.ends_with("eth0 (IPv6)"));
    set("ipv6/conf/eth0/forwarding", "1");
    set("ipv4/conf/all/arp_announce", "2");
    assert!(findings(&intent("FromRoute")).iter().all(|finding| finding.severity == Severity::Ok));
}

#[test]
fn network_managers_are_told_apart() {
    let managers = |names: &[&str]| {
        let fake = Fake::new();
        for (pid, name) in (70..).zip(names) {
            fake.process(&pid.to_string(), name, &[name], "net:[1]");
        }
        let findings = node::check(&fake.host(), fake.0.path(), false);
        let checks = [Check::Networkd, Check::Networkmanager, Check::NetworkManagers];
        let mut found: Vec<String> = findings
            .iter()
            .map(|finding| finding.check)
            .filter(|c| checks.contains(c))
            .map(|c| c.to_string())
            .collect();
        found.dedup();
        found
    };
    assert_eq!(managers(&["dhclient"]), ["network-managers"]);
    assert_eq!(managers(&["NetworkManager"]), ["networkmanager"]);
    assert_eq!(managers(&["systemd-network", "NetworkManager"]), ["networkd", "networkmanager"]);
}

#[test]
fn old_kernels_and_those_that_hide_their_types_are_told() {
    let fake = Fake::new();
    let check = |name: &str| find(&node::check(&fake.host(), fake.0.path(), false), name).clone();
    assert_eq!(check("kernel-version").severity, Severity::Warning, "no release at all");
    for (release, severity) in [
        ("5.15.0-91-generic", Severity::Warning),
        ("6.0.19", Severity::Warning),
        ("6.1.0-18-amd64", Severity::Ok),
        ("10.0", Severity::Ok),
    ] {
        fake.file("proc/sys/kernel/osrelease", &format!("{release}\n"));
        assert_eq!(check("kernel-version").severity, severity, "{release}");
    }
    let btf = check("kernel-btf");
    assert!(btf.severity == Severity::Note && btf.fix.contains("CONFIG_DEBUG_INFO_BTF"), "{btf:?}");
    fake.file("sys/kernel/btf/vmlinux", "");
    assert_eq!(check("kernel-btf").severity, Severity::Ok);
}

#[test]
fn whatever_is_wrong_has_its_reason_and_its_fix() {
    let fake = Fake::new();
    for (pid, name) in [("50", "systemd-network"), ("51", "NetworkManager")] {
        fake.process(pid, name, &[name], "net:[1]");
    }
    fake.file("proc/sys/net/ipv4/conf/eth1/rp_filter", "1\n");
    fake.file("proc/sys/net/ipv4/nexthop_compat_mode", "0\n");
    let listed = [("eth1".to_owned(), true)].into();
    let findings = [
        frr::check(&fake.host(), listen(), true, None),
        node::check(&fake.host(), &fake.0.path().join("bpf"), true),
        returns::check(&fake.host(), &listed),
        vec![
            ownership::band(&[rule(1150, 3)], &Config::default()),
            ownership::before(&[rule(9, 3)], &Config::default()),
        ],
    ]
    .concat();
    let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.severity > Severity::Ok).collect();
    assert!(wrong.len() >= 10, "{wrong:#?}");
    for finding in wrong {
        assert!(!finding.why.is_empty() && !finding.fix.is_empty(), "{finding:#?}");
    }
}

#[test]
fn networkd_is_judged_by_its_deciding_file() {
    let fake = Fake::new();
    fake.process("50", "systemd-network", &["/lib/systemd/systemd-networkd"], "net:[1]");
    let networkd = || {
        let findings = node::check(&fake.host(), fake.0.path(), false);
        findings.into_iter().filter(|finding| finding.check == Check::Networkd).collect::<Vec<_>>()
    };
    assert_eq!(networkd().len(), 2, "rules and routes");
    assert!(networkd().iter().all(|finding| finding.severity == Severity::Warning));
    fake.file(
        "usr/lib/systemd/networkd.conf.d/50-distro.conf",
        "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules = no\n",
    );
    assert_eq!(networkd().iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Ok]);
    fake.file("etc/systemd/networkd.conf.d/50-distro.conf", "[Network]\nManageForeignRoutes=no\n");
    assert_eq!(networkd().len(), 1);
    assert!(networkd()[0].what.contains("ManageForeignRoutingPolicyRules"));
}

#[test]
fn missing_capabilities_are_named() {
    let fake = Fake::new();
    fake.file("proc/self/status", "Name:\tbacktrail\nCapEff:\t0000008000001000\n");
    let findings = node::check(&fake.host(), fake.0.path(), false);
    let missing: Vec<&Finding> =
        findings.iter().filter(|finding| finding.check == Check::Capabilities).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].what.starts_with("CAP_PERFMON"));
    fake.file("proc/self/status", "CapEff:\t000001ffffffffff\n");
    assert_eq!(severity(&node::check(&fake.host(), fake.0.path(), false), "capabilities"), Severity::Ok);
}

#[test]
fn readers_of_routes_are_named_where_gateways_are_hidden_from_them() {
    let fake = Fake::new();
    let compat = || find(&node::check(&fake.host(), fake.0.path(), false), "nexthop-compat-mode").clone();
    assert_eq!(compat().severity, Severity::Note);
    fake.file("proc/sys/net/ipv4/nexthop_compat_mode", "0\n");
    assert_eq!(compat().severity, Severity::Ok);
    fake.process("60", "bird", &["bird"], "net:[1]");
    assert_eq!(compat().severity, Severity::Warning);
    assert!(compat().what.contains("bird"));
}

#[test]
fn a_folder_that_is_not_on_a_bpffs_is_an_error() {
    let fake = Fake::new();
    let findings = node::check(&fake.host(), &fake.0.path().join("bpf/backtrail"), false);
    let bpffs = find(&findings, "bpffs");
    assert_eq!(bpffs.severity, Severity::Error);
    assert!(bpffs.fix.contains("mount -t bpf"));
}

fn rule(priority: u32, protocol: u8) -> crate::model::Rule {
    let action = crate::model::RuleAction::Lookup(100);
    crate::model::Rule::all(crate::model::Family::Ipv4, priority, action, protocol)
}

#[test]
fn foreign_rules_are_judged_by_their_place() {
    let owned = Config::default();
    for (rules, band, before) in [
        (vec![rule(0, 2), rule(1000, 2), rule(1100, 201), rule(32766, 2)], Severity::Ok, Severity::Ok),
        (vec![rule(1189, 3)], Severity::Error, Severity::Ok),
        (vec![rule(1190, 3), rule(100, 3)], Severity::Ok, Severity::Note),
    ] {
        assert_eq!(ownership::band(&rules, &owned).severity, band, "{rules:?}");
        assert_eq!(ownership::before(&rules, &owned).severity, before, "{rules:?}");
    }
    let many: Vec<_> = (1100..1120).map(|priority| rule(priority, 3)).collect();
    assert!(ownership::band(&many, &owned).what.ends_with("and 12 more"));
}

#[test]
fn foreign_routes_and_nexthops_in_our_ranges_are_counted() {
    use crate::model::{NexthopBody, NexthopId, NexthopObject};
    let owned = Config::default();
    let tables = [((10001, 186), 12)].into();
    assert_eq!(
        ownership::table_range(&tables, &owned).what,
        "foreign routes in 10000-10999: table 10001: 12 of protocol 186"
    );
    let object = |id, protocol| NexthopObject { id: NexthopId(id), protocol, body: NexthopBody::Other };
    let fine = [object(7, 186), object(4_200_000_000, 201)];
    assert_eq!(ownership::nexthop_ids(&fine, &owned).severity, Severity::Ok);
    assert_eq!(ownership::nexthop_ids(&[object(4_200_000_000, 186)], &owned).severity, Severity::Warning);
}

#[test]
fn the_manual_has_a_section_for_each_check() {
    let manual = include_str!("../../../../docs/troubleshooting.md");
    let findings = manual.split_once("\n## Findings of doctor\n").unwrap().1;
    let sections: Vec<&str> = findings.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let checks: Vec<String> = Check::value_variants().iter().map(ToString::to_string).collect();
    assert_eq!(sections, checks);
}

#[test]
fn programs_before_ours_and_unequal_mtus_are_told() {
    use crate::api::{ProgramStatus, ReturnPathState, SteeredInterfaceStatus, SteeringState};
    let interface = |name: &str, position: &str| SteeredInterfaceStatus {
        name: name.to_owned(),
        programs: vec![ProgramStatus {
            direction: "egress".to_owned(),
            position: position.to_owned(),
            ..ProgramStatus::default()
        }],
        ..SteeredInterfaceStatus::default()
    };
    let link =
        |ifindex, name: &str, mtu| crate::model::Link { mtu, ..crate::model::Link::ethernet(ifindex, name) };
    let mut state = ReturnPathState {
        interfaces: vec![interface("eth1", "first"), interface("eth2", "first")],
        ..ReturnPathState::default()
    };
    let links = [link(2, "eth1", 1500), link(3, "eth2", 1500)];
    assert!(steering::check(&state, &links).is_empty());
    state.mode = SteeringState::TCRedirect;
    assert!(steering::check(&state, &links).iter().all(|finding| finding.severity == Severity::Ok));
    state.interfaces.push(interface("eth3", "behind 1 other"));
    let links = [&links[..], &[link(4, "eth3", 9000)]].concat();
    let findings = steering::check(&state, &links);
    assert_eq!(
        find(&findings, "tcx-order").what,
        "other programs come before ours: eth3 egress: behind 1 other"
    );
    assert!(find(&findings, "path-mtu").what.ends_with("eth1 1500 bytes, eth2 1500 bytes, eth3 9000 bytes"));
}

#[test]
fn a_kernel_without_tc_programs_is_an_error_and_an_old_hook_is_not() {
    let none = crate::steering::Features::default();
    assert_eq!(node::features(none, false).severity, Severity::Error);
    let old = node::features(none, true);
    assert_eq!(old.severity, Severity::Ok);
    assert!(old.what.contains("clsact"), "{}", old.what);
}
