//! One test for each row of the merge table: what is merged, and what is a conflict.

use std::time::Duration;

use super::super::types::{
    Allowed, DefaultRoute, FeedLoss, GatewaySource, HashPolicy, Import, Intent, OnLimit, PolicyProtocol,
    PrefixMatch, ReturnPathInterface, Vrf, VrfMode,
};
use super::*;

fn imports(specs: &[&str]) -> Intent {
    intent(&objects("RouteImport", specs))
}

fn import(specs: &[&str]) -> Import {
    let intent = imports(specs);
    assert_eq!(intent.conflicts, []);
    let [import] = intent.imports.as_slice() else { panic!("one import: {:?}", intent.imports) };
    assert_eq!(import.owners.len(), specs.len());
    import.clone()
}

fn vrf(specs: &[&str]) -> Vrf {
    let intent = vrfs(specs);
    assert_eq!(intent.conflicts, []);
    let [vrf] = intent.vrfs.as_slice() else { panic!("one VRF: {:?}", intent.vrfs) };
    assert_eq!(vrf.owners.len(), specs.len());
    vrf.clone()
}

fn return_path(specs: &[&str]) -> ReturnPathInterface {
    let intent = intent(&objects("ReturnPath", specs));
    assert_eq!(intent.conflicts, []);
    let [path] = intent.return_paths.as_slice() else { panic!("one interface: {:?}", intent.return_paths) };
    assert_eq!(path.owners.len(), specs.len());
    path.clone()
}

const FROM: &str = "from: {table: 5000}, into: {vrf: {name: red, table: 10001}}";

fn ri(rest: &str) -> String {
    format!("{FROM}, {rest}")
}

#[test]
fn vrf_name_has_one_table() {
    let two = ["vrf: {name: red, table: 10001}", "vrf: {name: red, table: 10002}"];
    let merged = vrfs(&two);
    assert_eq!(conflicts(&merged), ["VRFAttachment/b vrf VRFTableMismatch VRFAttachment/a"]);
    assert_eq!(merged.vrfs.iter().map(|v| v.table).collect::<Vec<_>>(), [10001]);
    let b = merged.objects.iter().find(|o| o.object.name == "b").unwrap();
    assert_eq!((b.accepted, b.reason.as_str()), (false, "VRFTableMismatch"));
}

#[test]
fn table_has_one_vrf() {
    let merged = vrfs(&["vrf: {name: red, table: 10001}", "vrf: {name: blue, table: 10001}"]);
    assert_eq!(conflicts(&merged), ["VRFAttachment/b vrf TableReused VRFAttachment/a"]);
    assert_eq!(merged.vrfs.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["red"]);
}

#[test]
fn users_of_a_vrf_agree_with_its_attachment() {
    let attachment = document("VRFAttachment", "z", "vrf: {name: red, table: 10001}");
    let import = document(
        "RouteImport",
        "a",
        "from: {table: 1}, into: {vrf: {name: red, table: 7}}, allowed: {mode: All}",
    );
    let policy = document(
        "TrafficPolicy",
        "a",
        "rules: [{name: r, match: {destinations: [10.0.0.0/8]}, action: {vrf: {name: blue, table: 10001}}}]",
    );
    let merged = intent(&format!("{attachment}{import}{policy}"));
    assert_eq!(
        conflicts(&merged),
        [
            "RouteImport/a into.vrf VRFTableMismatch VRFAttachment/z",
            "TrafficPolicy/a rules[r] TableReused VRFAttachment/z"
        ]
    );
    assert_eq!((merged.imports.len(), merged.rules.len()), (0, 0));
}

#[test]
fn table_only_and_a_device_exclude_each_other() {
    let merged = vrfs(&["vrf: {name: red, table: 10001}", "vrf: {name: red, table: 10001, mode: Create}"]);
    assert_eq!(conflicts(&merged), ["VRFAttachment/b vrf.mode ModeMismatch VRFAttachment/a"]);
}

#[test]
fn create_goes_before_adopt() {
    let merged = vrfs(&[
        "vrf: {name: red, table: 10001, mode: Adopt}",
        "vrf: {name: red, table: 10001, mode: Create}",
    ]);
    assert_eq!(merged.conflicts, []);
    assert!(merged.objects.iter().all(|o| o.accepted && o.reason == "Valid"), "{:?}", merged.objects);
    assert_eq!(merged.vrfs[0].mode, VrfMode::Create);
}

#[test]
fn tables_lie_in_the_range_but_for_adopt() {
    let merged = vrfs(&["vrf: {name: red, table: 9999}", "vrf: {name: blue, table: 9998, mode: Adopt}"]);
    let reasons: Vec<_> = merged.objects.iter().map(|o| o.reason.as_str()).collect();
    assert_eq!(reasons, ["TableOutsideOwnership", "Valid"]);
    let wider = document("DataplaneConfig", "default", "ownership: {tables: {from: 9000, to: 9999}}");
    let merged =
        intent(&format!("{wider}{}", document("VRFAttachment", "a", "vrf: {name: red, table: 9999}")));
    assert_eq!(merged.vrfs.len(), 1);
}

#[test]
fn interfaces_are_united_and_belong_to_one_vrf() {
    let merged = vrfs(&[
        "vrf: {name: red, table: 10001}, interfaces: [{name: eth1}]",
        "vrf: {name: red, table: 10001}, interfaces: [{name: eth2}]",
        "vrf: {name: blue, table: 10002}, interfaces: [{name: eth1}, {name: eth3}]",
    ]);
    assert_eq!(conflicts(&merged), ["VRFAttachment/c interfaces[eth1] InterfaceInOtherVRF VRFAttachment/a"]);
    let names = |name: &str| -> Vec<String> {
        let vrf = merged.vrfs.iter().find(|v| v.name == name).unwrap();
        vrf.interfaces.iter().map(|i| i.name.clone()).collect()
    };
    assert_eq!((names("red"), names("blue")), (vec!["eth1".into(), "eth2".into()], vec!["eth3".into()]));
    assert!(merged.objects.iter().all(|o| o.accepted), "a conflict costs the item alone");
}

#[test]
fn vlan_is_the_same_and_addresses_are_united() {
    let red = "vrf: {name: red, table: 10001}, interfaces: [{name: v5, ";
    let vlan =
        |rest: &str| format!("{red}type: VLAN, vlan: {{parent: {rest}}}, addresses: [192.0.2.1/24]}}]");
    let existing = format!("{red}addresses: ['2001:db8::1/64']}}]");
    let merged = vrf(&[&vlan("eth1, id: 5"), &existing, &vlan("eth1, id: 5, mtu: 9000")]);
    let [interface] = merged.interfaces.as_slice() else { panic!("{:?}", merged.interfaces) };
    assert_eq!(
        interface.vlan.as_ref().map(|v| (v.parent.as_str(), v.id, v.mtu)),
        Some(("eth1", 5, Some(9000)))
    );
    assert_eq!(interface.addresses.len(), 2);
    let conflict = vrfs(&[&vlan("eth1, id: 5"), &vlan("eth1, id: 6"), &vlan("eth2, id: 5")]);
    assert_eq!(
        conflicts(&conflict),
        [
            "VRFAttachment/b interfaces[v5] VLANMismatch VRFAttachment/a",
            "VRFAttachment/c interfaces[v5] VLANMismatch VRFAttachment/a"
        ]
    );
    let conflict = vrfs(&[&vlan("eth1, id: 5, mtu: 1500"), &vlan("eth1, id: 5, mtu: 9000")]);
    assert_eq!(conflicts(&conflict), ["VRFAttachment/b interfaces[v5].vlan.mtu MTUMismatch VRFAttachment/a"]);
    assert_eq!(conflict.vrfs[0].interfaces[0].vlan.as_ref().unwrap().mtu, Some(1500));
}

#[test]
fn isolation_and_exceptions_are_permissive() {
    let merged = vrf(&[
        "vrf: {name: red, table: 10001}, clusterExceptions: {autoDetect: false, extraCIDRs: [10.1.0.0/16]}",
        "vrf: {name: red, table: 10001}, isolation: FallbackToMain, clusterExceptions: {extraCIDRs: [10.0.0.0/16, 10.1.0.0/16]}",
    ]);
    assert!(!merged.strict && merged.auto_exceptions);
    assert_eq!(merged.exceptions.len(), 2);
    assert!(vrf(&["vrf: {name: red, table: 10001}"]).strict, "Strict is the default");
}

#[test]
fn gateways_are_united_with_one_weight() {
    let gateway = |address: &str, weight: u8| {
        format!(
            "vrf: {{name: red, table: 10001}}, interfaces: [{{name: eth1}}], gateways: [{{address: {address}, interface: eth1, weight: {weight}}}]"
        )
    };
    assert_eq!(
        vrf(&[&gateway("192.0.2.1", 1), &gateway("192.0.2.2", 5), &gateway("192.0.2.1", 1)]).gateways.len(),
        2
    );
    let conflict = vrfs(&[&gateway("192.0.2.1", 1), &gateway("192.0.2.1", 2)]);
    assert_eq!(
        conflicts(&conflict),
        ["VRFAttachment/b gateways[192.0.2.1,eth1] GatewayWeightMismatch VRFAttachment/a"]
    );
    assert_eq!(conflict.vrfs[0].gateways[0].weight, 1);
}

#[test]
fn imports_with_another_key_stay_apart() {
    let specs = [
        "from: {table: 1}, into: {table: Main}, allowed: {mode: All}",
        "from: {table: 1, interfaces: [eth1]}, into: {table: Main}, allowed: {mode: All}",
        "from: {table: 1}, into: {table: 7}, allowed: {mode: All}",
        "from: {table: 1}, into: {table: Main}, metric: 30, allowed: {mode: All}",
    ];
    assert_eq!(imports(&specs).imports.len(), 4);
}

#[test]
fn defaults_of_an_import() {
    let import = import(&[&ri("allowed: {mode: All}")]);
    assert_eq!((import.metric, import.max_routes, import.max_paths, import.program), (20, 10_000, 16, true));
    assert_eq!((import.default_route, import.on_limit), (DefaultRoute::Reject, OnLimit::RejectNew));
    assert_eq!(import.on_feed_loss, FeedLoss::Retain(Some(Duration::from_secs(120))));
    assert_eq!((import.into.table, import.into.vrf.as_deref()), (10001, Some("red")));
    assert!(import.protocols.is_empty());
}

#[test]
fn allowed_all_beats_the_union_of_prefixes() {
    let list = |prefix: &str| ri(&format!("allowed: {{prefixes: [{{prefix: {prefix}}}]}}"));
    let (a, b, all) = (list("10.0.0.0/8, le: 24"), list("10.0.0.0/8, ge: 9"), ri("allowed: {mode: All}"));
    let entry = |ge, le| PrefixMatch { prefix: "10.0.0.0/8".parse().unwrap(), ge, le };
    assert_eq!(import(&[&a, &b, &a]).allowed, Allowed::Prefixes(vec![entry(8, 24), entry(9, 32)]));
    assert_eq!(import(&[&list("10.0.0.0/8")]).allowed, Allowed::Prefixes(vec![entry(8, 8)]));
    assert_eq!(import(&[&a, &all]).allowed, Allowed::All);
}

#[test]
fn protocols_are_united_and_any_wins() {
    let of = |protocols: &str| {
        format!(
            "from: {{table: 5000, protocols: [{protocols}]}}, into: {{table: Main}}, allowed: {{mode: All}}"
        )
    };
    let merged = import(&[&of("BGP"), &of("OSPF, RIP"), &of("Static, ISIS")]);
    assert_eq!(merged.protocols, BTreeSet::from([186, 187, 188, 189, 190, 196]));
    assert!(import(&[&of("BGP"), &of("Any")]).protocols.is_empty());
    assert!(import(&[&of("BGP"), &of("")]).protocols.is_empty());
}

#[test]
fn default_route_is_the_most_permissive_under_the_guardrail() {
    let specs = [
        ri("allowed: {mode: All}"),
        ri("allowed: {mode: All}, defaultRoute: Backup"),
        ri("allowed: {mode: All}, defaultRoute: Accept"),
    ];
    let specs: Vec<_> = specs.iter().map(String::as_str).collect();
    let under = |guard: &str, specs: &[&str]| {
        intent(&format!(
            "{}{}",
            document("DataplaneConfig", "default", &format!("guardrails: {{defaultRoute: {guard}}}")),
            objects("RouteImport", specs)
        ))
    };
    let merged = under("AllowInVRFs", &specs);
    assert_eq!((merged.imports[0].default_route, merged.conflicts.len()), (DefaultRoute::Accept, 0));
    assert_eq!(under("AllowInVRFs", &specs[..2]).imports[0].default_route, DefaultRoute::Backup);
    let merged = under("Forbid", &specs);
    assert_eq!(merged.imports[0].default_route, DefaultRoute::Reject);
    assert_eq!(
        conflicts(&merged),
        [
            "RouteImport/b defaultRoute GuardrailTripped DataplaneConfig/default",
            "RouteImport/c defaultRoute GuardrailTripped DataplaneConfig/default"
        ]
    );
    let main = "from: {table: 5000}, into: {table: Main}, allowed: {mode: All}, defaultRoute: Accept";
    assert_eq!(under("AllowInVRFs", &[main]).imports[0].default_route, DefaultRoute::Reject);
    assert_eq!(under("Allow", &[main]).imports[0].default_route, DefaultRoute::Accept);
    assert_eq!(imports(&[main]).imports[0].default_route, DefaultRoute::Reject, "Forbid is the default");
}

#[test]
fn max_routes_is_the_most_under_the_guardrail() {
    let specs = [ri("allowed: {mode: All}, maxRoutes: 5"), ri("allowed: {mode: All}, maxRoutes: 500000")];
    assert_eq!(import(&[&specs[0], &specs[0]]).max_routes, 5);
    assert_eq!(import(&[&specs[0], &specs[1]]).max_routes, 200_000);
}

#[test]
fn action_and_limit_are_permissive() {
    let merged =
        import(&[&ri("allowed: {mode: All}, action: Observe, onLimit: Freeze"), &ri("allowed: {mode: All}")]);
    assert!(merged.program);
    assert_eq!(merged.on_limit, OnLimit::RejectNew);
    assert!(!import(&[&ri("allowed: {mode: All}, action: Observe")]).program);
}

#[test]
fn preferred_source_and_multipath_mode_are_equal_or_unset() {
    let specs = [
        ri("allowed: {mode: All}"),
        ri("allowed: {mode: All}, preferredSource: 192.0.2.1, multipath: {mode: Single}"),
        ri("allowed: {mode: All}, preferredSource: 192.0.2.2, multipath: {maxPaths: 4}"),
    ];
    let merged = import(&[&specs[0], &specs[1]]);
    assert_eq!((merged.preferred_source, merged.max_paths), (Some("192.0.2.1".parse().unwrap()), 1));
    assert_eq!(import(&[&specs[2], &ri("allowed: {mode: All}, multipath: {maxPaths: 8}")]).max_paths, 8);
    let merged = imports(&[&specs[0], &specs[1], &specs[2]]);
    assert_eq!(
        conflicts(&merged),
        [
            "RouteImport/c multipath.mode InstallMismatch RouteImport/b",
            "RouteImport/c preferredSource InstallMismatch RouteImport/b"
        ]
    );
    assert_eq!(merged.imports[0].owners.len(), 3, "the rest of the object is in force");
}

#[test]
fn feedback_to_zebra_is_a_setting() {
    let merged = intent(&document("DataplaneConfig", "default", "fpm: {offloadAck: true}"));
    assert!(merged.config.offload_ack && !intent("").config.offload_ack);
    assert_eq!((merged.objects[0].accepted, merged.objects[0].reason.as_str()), (true, "Valid"));
}

#[test]
fn hash_policy_is_one_for_the_node() {
    let of = |table: u32, policy: &str| {
        format!(
            "from: {{table: {table}}}, into: {{table: Main}}, allowed: {{mode: All}}, multipath: {{hashPolicy: {policy}}}"
        )
    };
    assert_eq!(imports(&[&of(1, "L4"), &of(2, "Unmanaged"), &of(3, "L4")]).hash_policy, HashPolicy::L4);
    let merged = imports(&[&of(1, "L4"), &of(2, "L3")]);
    assert_eq!(merged.hash_policy, HashPolicy::L4);
    assert_eq!(conflicts(&merged), ["RouteImport/b multipath.hashPolicy HashPolicyMismatch RouteImport/a"]);
    assert_eq!((merged.objects[0].accepted, merged.objects[0].reason.as_str()), (true, "Valid"));
}

#[test]
fn feed_loss_retains_longest() {
    let of = |loss: &str| ri(&format!("allowed: {{mode: All}}, onFeedLoss: {{{loss}}}"));
    let retain = |seconds| FeedLoss::Retain(Some(Duration::from_secs(seconds)));
    let (withdraw, short, long, ever) =
        (of("policy: Withdraw"), of("timeout: 5s"), of("timeout: 10m"), of("timeout: 0s"));
    assert_eq!(import(&[&withdraw, &ri("allowed: {mode: All}")]).on_feed_loss, FeedLoss::Withdraw);
    assert_eq!(import(&[&withdraw, &short]).on_feed_loss, retain(5));
    assert_eq!(import(&[&short, &long]).on_feed_loss, retain(600));
    assert_eq!(import(&[&ever, &long]).on_feed_loss, FeedLoss::Retain(None));
}

#[test]
fn equal_rules_are_one_and_another_action_is_a_conflict() {
    let ten = tp("destinations: [10.0.0.0/8, 10.1.0.0/16]", RED, "");
    let merged = intent(&objects("TrafficPolicy", &[&ten, &ten]));
    assert_eq!((merged.rules.len(), merged.rules[0].owners.len(), merged.conflicts.len()), (2, 2, 0));
    let blue = tp("destinations: [10.0.0.0/8, 10.2.0.0/16]", BLUE, "");
    let merged = intent(&objects("TrafficPolicy", &[&ten, &blue]));
    assert_eq!(conflicts(&merged), ["TrafficPolicy/b rules[r] RuleActionMismatch TrafficPolicy/a"]);
    let rules: Vec<_> = merged.rules.iter().map(|r| format!("{} {}", r.destinations[0], r.vrf)).collect();
    assert_eq!(
        rules,
        ["10.1.0.0/16 red", "10.2.0.0/16 blue", "10.0.0.0/8 red"],
        "only the common prefix is lost"
    );
    let main = tp("destinations: [10.1.0.0/16]", RED, ", ifUnavailable: Main");
    let merged = intent(&objects("TrafficPolicy", &[&ten, &main]));
    assert_eq!(conflicts(&merged), ["TrafficPolicy/b rules[r] RuleActionMismatch TrafficPolicy/a"]);
}

#[test]
fn rules_are_ordered_by_band_and_length_and_name() {
    let policy = |name: &str, band: &str, nets: &str| {
        document(
            "TrafficPolicy",
            name,
            &format!(
                "band: {band}, rules: [{{name: {name}, match: {{{nets}}}, action: {{vrf: {{{RED}}}}}}}]"
            ),
        )
    };
    let merged = intent(
        &[
            policy("a", "Late", "destinations: [10.0.0.0/24]"),
            policy("c", "Normal", "destinations: [10.0.0.0/8]"),
            policy("b", "Normal", "destinations: [11.0.0.0/8]"),
            policy("d", "Normal", "destinations: [10.0.0.0/8], sources: [192.0.2.0/24]"),
            policy("e", "Normal", "sources: [192.0.2.0/24]"),
            policy("f", "Early", "ingressInterfaces: [eth1]"),
        ]
        .concat(),
    );
    let names: Vec<_> = merged.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["f", "d", "b", "c", "e", "a"]);
}

#[test]
fn rules_are_multiplied_out_within_a_family() {
    let spec = tp(
        "destinations: [10.0.0.0/8, '2001:db8::/32'], sources: [192.0.2.0/24], ingressInterfaces: [eth1, eth2], protocol: UDP, destinationPorts: [{from: 53}, {from: 1000, to: 2000}]",
        RED,
        "",
    );
    let merged = intent(&objects("TrafficPolicy", &[&spec]));
    assert_eq!(merged.rules.len(), 4, "{:?}", merged.rules);
    assert!(
        merged.rules.iter().all(|r| r.protocol == Some(PolicyProtocol::UDP) && r.destinations.len() == 1)
    );
    let ports: BTreeSet<_> = merged.rules.iter().map(|r| r.destination_ports[0]).collect();
    assert_eq!(ports, BTreeSet::from([(53, 53), (1000, 2000)]));
}

#[test]
fn rules_that_multiply_without_end_are_refused() {
    let nets = |byte: u8| (0..64).map(|i| format!("{byte}.{i}.0.0/16")).collect::<Vec<_>>().join(", ");
    let spec = tp(
        &format!("destinations: [{}], sources: [{}], ingressInterfaces: [eth1, eth2]", nets(10), nets(11)),
        RED,
        "",
    );
    let merged = intent(&objects("TrafficPolicy", &[&spec]));
    assert_eq!((merged.rules.len(), merged.objects[0].reason.as_str()), (0, "BandFull"));
}

#[test]
fn host_traffic_is_permissive() {
    let without = tp("destinations: [10.0.0.0/8], hostTraffic: false", RED, "");
    let with = tp("destinations: [10.0.0.0/8]", RED, "");
    assert!(!intent(&objects("TrafficPolicy", &[&without])).rules[0].host_traffic);
    assert!(intent(&objects("TrafficPolicy", &[&without, &with])).rules[0].host_traffic);
}

#[test]
fn main_is_no_way_out_of_a_strict_vrf() {
    let policy =
        document("TrafficPolicy", "p", &tp("destinations: [10.0.0.0/8]", RED, ", ifUnavailable: Main"));
    let of = |isolation: &str| {
        intent(&format!(
            "{policy}{}",
            document("VRFAttachment", "v", &format!("vrf: {{{RED}}}, isolation: {isolation}"))
        ))
    };
    let strict = of("Strict");
    assert_eq!(conflicts(&strict), ["TrafficPolicy/p rules[r] IsolationForbids VRFAttachment/v"]);
    assert_eq!(strict.rules, []);
    assert!(!of("FallbackToMain").rules[0].drop_if_unavailable);
    assert!(!intent(&policy).rules[0].drop_if_unavailable);
}

/// Its rule stands before all policies, and its table has an end.
#[test]
fn what_comes_into_a_strict_vrf_is_beyond_policies_of_others() {
    let of = |isolation: &str, vrf: &str| {
        let attachment = format!(
            "vrf: {{name: blue, table: 10009}}, isolation: {isolation}, interfaces: [{{name: eth1}}]"
        );
        let policy = tp("destinations: [10.0.0.0/8], ingressInterfaces: [eth1, eth2]", vrf, "");
        intent(&(document("VRFAttachment", "v", &attachment) + &document("TrafficPolicy", "p", &policy)))
    };
    let ingress = |intent: &Intent| -> Vec<String> {
        intent.rules.iter().flat_map(|rule| rule.ingress_interfaces.clone()).collect()
    };
    let strict = of("Strict", RED);
    assert_eq!(ingress(&strict), ["eth2"]);
    assert_eq!(
        conflicts(&strict),
        ["TrafficPolicy/p rules[r].ingressInterfaces[eth1] IsolationForbids VRFAttachment/v"]
    );
    for reached in [of("FallbackToMain", RED), of("Strict", "name: blue, table: 10009")] {
        assert_eq!(
            (ingress(&reached), conflicts(&reached)),
            (vec!["eth1".to_owned(), "eth2".to_owned()], vec![])
        );
    }
}

#[test]
fn return_path_interface_has_one_gateway() {
    let of = |gateway: &str| format!("interfaces: [{{name: eth1, gateway: {{{gateway}}}}}]");
    let fixed = of("source: Static, ipv4: 192.0.2.1");
    assert_eq!(
        return_path(&[&fixed, &fixed]).gateway,
        GatewaySource::Static { ipv4: Some([192, 0, 2, 1].into()), ipv6: None }
    );
    let merged = intent(&objects(
        "ReturnPath",
        &[&fixed, &of("source: Static, ipv4: 192.0.2.2"), &of("source: FromRoute")],
    ));
    assert_eq!(
        conflicts(&merged),
        [
            "ReturnPath/b interfaces[eth1] GatewayMismatch ReturnPath/a",
            "ReturnPath/c interfaces[eth1] GatewayMismatch ReturnPath/a"
        ]
    );
    let states: Vec<_> = merged.objects.iter().map(|o| o.accepted).collect();
    assert_eq!(states, [true, false, false]);
}

#[test]
fn return_path_matches_are_united() {
    let of = |matches: &str| format!("interfaces: [{{name: eth1}}], match: {{{matches}}}");
    let (a, b) = (
        of("virtualIPs: [203.0.113.0/24], protocols: [TCP]"),
        of("virtualIPs: [198.18.0.0/16], protocols: [UDP]"),
    );
    let merged = return_path(&[&a, &b]);
    assert_eq!(merged.virtual_ips.len(), 2);
    assert_eq!(merged.protocols, BTreeSet::from([PolicyProtocol::TCP, PolicyProtocol::UDP]));
    let merged = return_path(&[&a, &of("")]);
    assert!(merged.virtual_ips.is_empty());
    assert_eq!(merged.protocols.len(), 4);
}

#[test]
fn return_path_exceptions_hold_when_all_have_them() {
    let of = |sources: &str, ports: &str| {
        format!("interfaces: [{{name: eth1}}], match: {{exceptSources: [{sources}], exceptPorts: [{ports}]}}")
    };
    let (a, b) = (
        of("10.0.0.0/8, 192.0.2.0/24", "{from: 1, to: 100}"),
        of("10.1.0.0/16, 198.18.0.0/16", "{from: 50, to: 200}, {from: 22}"),
    );
    let merged = return_path(&[&a, &b]);
    assert_eq!(merged.except_sources.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/16"]);
    assert_eq!(merged.except_ports, [(22, 22), (50, 100)]);
    assert_eq!(return_path(&[&a]).except_sources.len(), 2);
    assert!(return_path(&[&a, &of("", "")]).except_sources.is_empty());
}

#[test]
fn return_path_modes_are_permissive() {
    let strict = "interfaces: [{name: eth1}], mode: Shadow, onPathDown: Drop, rpFilter: Unmanaged";
    let alone = return_path(&[strict]);
    assert!(!alone.enforce && alone.drop_on_path_down && !alone.manage_rp_filter);
    let merged = return_path(&[strict, "interfaces: [{name: eth1}]"]);
    assert!(merged.enforce && !merged.drop_on_path_down && merged.manage_rp_filter);
}

#[test]
fn flow_table_is_the_largest_under_the_guardrail() {
    let specs = [
        "interfaces: [{name: eth1}], flowTable: {maxEntries: 4096, tcpIdle: 2h}, egressInterfaces: [eth0]",
        "interfaces: [{name: 'bond*'}], flowTable: {maxEntries: 2000000, udpIdle: 60s}, egressInterfaces: ['eth*']",
    ];
    let merged = intent(&objects("ReturnPath", &specs));
    let steering = merged.steering;
    assert_eq!(steering.max_entries, 1_048_576);
    assert_eq!((steering.tcp_idle.as_secs(), steering.udp_idle.as_secs()), (7200, 120));
    assert_eq!(steering.egress_interfaces, BTreeSet::from(["eth0".to_owned(), "eth*".to_owned()]));
    let names: Vec<_> = merged.return_paths.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["eth1", "bond*"], "exact names first");
}
