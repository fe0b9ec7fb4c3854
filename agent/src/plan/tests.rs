use std::net::IpAddr;

use super::*;
use crate::intent::types::*;
use crate::model::devices::Changed;
use crate::model::{Address, Link, RouteTarget, RuleAction, Special};
use crate::status::reason;

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

fn link(ifindex: u32, name: &str, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|text| Address::plain(net(text))).collect();
    Link { addresses, ..Link::ethernet(ifindex, name) }
}

fn owner(name: &str) -> Vec<ObjectRef> {
    vec![ObjectRef { kind: "VRFAttachment".to_owned(), name: name.to_owned() }]
}

fn vrf(interfaces: &[&str]) -> Vrf {
    Vrf {
        name: "red".to_owned(),
        table: 10001,
        mode: VrfMode::TableOnly,
        strict: true,
        interfaces: interfaces
            .iter()
            .map(|name| VrfInterface {
                name: (*name).to_owned(),
                vlan: None,
                addresses: Vec::new(),
                preserve_addresses: true,
                owners: owner("red"),
            })
            .collect(),
        gateways: Vec::new(),
        exceptions: Vec::new(),
        auto_exceptions: true,
        rp_filter: RpFilter::Auto,
        owners: owner("red"),
    }
}

fn policy(name: &str, destination: &str) -> PolicyRule {
    PolicyRule {
        owners: owner(name),
        name: name.to_owned(),
        band: Band::Normal,
        destinations: vec![net(destination)],
        sources: Vec::new(),
        ingress_interfaces: Vec::new(),
        protocol: None,
        destination_ports: Vec::new(),
        host_traffic: true,
        table: 10001,
        vrf: "red".to_owned(),
        drop_if_unavailable: true,
    }
}

fn compile(intent: &Intent, links: Vec<Link>) -> Plan {
    let links = by_index(links);
    compile_with(intent, &links, &NodeFacts::default())
}

fn by_index(links: impl IntoIterator<Item = Link>) -> Links {
    links.into_iter().map(|link| (link.ifindex, link)).collect()
}

fn compile_with(intent: &Intent, links: &Links, facts: &NodeFacts) -> Plan {
    Plan::compile(PlanInput { intent, links, zebra: &ZebraTables::default(), facts })
}

fn route_to<'a>(plan: &'a Plan, prefix: &str, metric: u32) -> Option<&'a StaticRoute> {
    plan.static_routes.get(&RouteKey { table: 10001, prefix: net(prefix), metric })
}

#[test]
fn a_strict_vrf_has_its_connected_routes_and_an_end() {
    let intent = Intent { vrfs: vec![vrf(&["e1"])], ..Intent::default() };
    let plan =
        compile(&intent, vec![link(2, "e1", &["10.0.1.1/24", "fd00:1::1/64", "fe80::1/64", "192.0.2.7/32"])]);
    let connected = route_to(&plan, "10.0.1.0/24", 0).unwrap();
    assert_eq!(connected.route.preferred_source, Some(IpAddr::from([10, 0, 1, 1])));
    assert!(connected.route.scope_link);
    assert!(route_to(&plan, "fd00:1::/64", 256).is_some());
    assert!(route_to(&plan, "fe80::/64", 258).is_some());
    for default in ["0.0.0.0/0", "::/0"] {
        let end = route_to(&plan, default, METRIC_STRICT).unwrap();
        assert_eq!(end.route.target, RouteTarget::Special(Special::Unreachable));
        assert_eq!(end.purpose, reason::ISOLATION);
    }
    assert_eq!(plan.static_routes.len(), 5, "a host address has no connected route");
}

#[test]
fn a_vrf_that_falls_back_has_no_end_and_a_link_that_is_down_no_connected_route() {
    let intent = Intent { vrfs: vec![Vrf { strict: false, ..vrf(&["e1"]) }], ..Intent::default() };
    let mut down = link(2, "e1", &["10.0.1.1/24"]);
    down.up = false;
    assert!(compile(&intent, vec![down]).static_routes.is_empty());
}

#[test]
fn gateways_of_last_resort_need_their_link() {
    let gateway =
        StaticGateway { address: "10.0.1.254".parse().unwrap(), interface: "e1".to_owned(), weight: 2 };
    let intent = Intent { vrfs: vec![Vrf { gateways: vec![gateway], ..vrf(&["e1"]) }], ..Intent::default() };
    let plan = compile(&intent, vec![link(2, "e1", &[])]);
    let found = route_to(&plan, "0.0.0.0/0", METRIC_LAST_RESORT).unwrap();
    assert!(matches!(&found.route.target, RouteTarget::Inline(hops) if hops[0].0.onlink && hops[0].1 == 2));
    let mut down = link(2, "e1", &[]);
    down.carrier = false;
    assert!(route_to(&compile(&intent, vec![down]), "0.0.0.0/0", METRIC_LAST_RESORT).is_none());
}

#[test]
fn a_static_gateway_that_does_not_answer_is_left_out_while_another_does() {
    let gateways = ["10.0.1.253", "10.0.1.254"].map(|address| StaticGateway {
        address: address.parse().unwrap(),
        interface: "e1".to_owned(),
        weight: 1,
    });
    let [first, second] = [gateways[0].address, gateways[1].address].map(|address| (2, address));
    let intent =
        Intent { vrfs: vec![Vrf { gateways: gateways.into(), ..vrf(&["e1"]) }], ..Intent::default() };
    for (silent, used) in [
        (vec![], vec![first, second]),
        (vec![first], vec![second]),
        (vec![first, second], vec![first, second]),
    ] {
        let facts = NodeFacts { silent: silent.into_iter().collect(), ..NodeFacts::default() };
        let plan = compile_with(&intent, &by_index([link(2, "e1", &[])]), &facts);
        let found = route_to(&plan, "0.0.0.0/0", METRIC_LAST_RESORT).unwrap();
        let RouteTarget::Inline(hops) = &found.route.target else { panic!("{found:?}") };
        let hops: Vec<_> = hops.iter().map(|(hop, _)| (hop.ifindex, hop.gateway.unwrap())).collect();
        assert_eq!(hops, used);
        assert_eq!(plan.watched_gateways, [first, second].into());
    }
}

#[test]
fn an_interface_that_does_not_exist_is_named_and_costs_nothing_else() {
    let intent = Intent { vrfs: vec![vrf(&["e1", "absent"])], ..Intent::default() };
    let plan = compile(&intent, vec![link(2, "e1", &["10.0.1.1/24"])]);
    assert_eq!(plan.problems.iter().map(|p| p.reason).collect::<Vec<_>>(), [reason::INTERFACE_NOT_FOUND]);
    assert!(plan.problems[0].message.contains("absent"));
    assert!(route_to(&plan, "10.0.1.0/24", 0).is_some());
    let rules: Vec<_> = plan.rules.iter().filter(|rule| rule.iif.as_deref() == Some("absent")).collect();
    assert_eq!(rules.len(), 2, "rules go by name: they wait for the interface");
}

#[test]
fn interface_rules_stand_in_the_first_tenth_behind_exceptions() {
    let exceptions = vec![net("10.96.0.0/12")];
    let intent = Intent { vrfs: vec![Vrf { exceptions, ..vrf(&["e1"]) }], ..Intent::default() };
    let plan = compile(&intent, vec![link(2, "e1", &[])]);
    let exception = plan.rules.iter().find(|rule| rule.destination.is_some()).unwrap();
    assert_eq!((exception.priority, exception.action), (1100, RuleAction::Lookup(TABLE_MAIN)));
    let of_interface: Vec<u32> =
        plan.rules.iter().filter(|r| r.destination.is_none()).map(|r| r.priority).collect();
    assert_eq!(of_interface, [1108; 4], "iif and oif, both families");
}

#[test]
fn longer_destinations_come_first_and_drop_follows_its_lookup() {
    let rules =
        vec![policy("wide", "10.0.0.0/8"), policy("narrow", "10.1.0.0/16"), policy("other", "172.16.0.0/12")];
    let intent = Intent { rules, ..Intent::default() };
    let plan = compile(&intent, Vec::new());
    let at = |prefix: &str| -> Vec<(u32, RuleAction)> {
        let of = plan.rules.iter().filter(|rule| rule.destination == Some(net(prefix)));
        of.map(|rule| (rule.priority, rule.action)).collect()
    };
    assert_eq!(at("10.1.0.0/16"), [(1145, RuleAction::Lookup(10001)), (1146, RuleAction::Unreachable)]);
    assert_eq!(at("10.0.0.0/8"), [(1147, RuleAction::Lookup(10001)), (1148, RuleAction::Unreachable)]);
    assert_eq!(at("172.16.0.0/12")[0].0, 1145, "what cannot match the same packet shares a priority");
}

#[test]
fn without_host_traffic_local_packets_jump_over_the_rule() {
    let rule = PolicyRule { host_traffic: false, ..policy("transit", "10.0.0.0/8") };
    let plan = compile(&Intent { rules: vec![rule], ..Intent::default() }, Vec::new());
    let rules: Vec<_> = plan.rules.iter().map(|r| (r.priority, r.iif.as_deref(), r.action)).collect();
    let expected = [
        (1145, Some("lo"), RuleAction::Goto(1148)),
        (1146, None, RuleAction::Lookup(10001)),
        (1147, None, RuleAction::Unreachable),
        (1148, None, RuleAction::Nop),
    ];
    assert_eq!(rules, expected);
    assert!(plan.rules.iter().all(|rule| (rule.action == RuleAction::Nop) == rule.destination.is_none()));
}

/// No rule of the kernel has port 65535: without a port they take it in, and jump over the ports below.
#[test]
fn ranges_up_to_the_last_port_are_whole() {
    let rules_of = |range| -> Vec<_> {
        let rule = PolicyRule {
            destination_ports: vec![range],
            protocol: Some(PolicyProtocol::TCP),
            drop_if_unavailable: false,
            ..policy("p", "10.0.0.0/8")
        };
        let plan = compile(&Intent { rules: vec![rule], ..Intent::default() }, Vec::new());
        plan.rules.iter().map(|r| (r.priority, r.ip_protocol, r.destination_ports, r.action)).collect()
    };
    let (lookup, all) = (RuleAction::Lookup(10001), None);
    let jump = |last| (1145, Some(6), Some((1, last)), RuleAction::Goto(1147));
    let behind = [(1146, Some(6), all, lookup), (1147, None, all, RuleAction::Nop)];
    assert_eq!(rules_of((1024, 65534)), [(1145, Some(6), Some((1024, 65534)), lookup)]);
    assert_eq!(rules_of((1, 65535)), [(1145, Some(6), all, lookup)]);
    assert_eq!(rules_of((1024, 65535)), [jump(1023), behind[0], behind[1]]);
    assert_eq!(rules_of((65535, 65535)), [jump(65534), behind[0], behind[1]]);
}

#[test]
fn too_many_overlapping_rules_fill_the_band_and_say_so() {
    let rules = (8..=30).map(|len| policy(&format!("r{len:02}"), &format!("10.0.0.0/{len}"))).collect();
    let plan = compile(&Intent { rules, ..Intent::default() }, Vec::new());
    assert!(plan.problems.iter().all(|problem| problem.reason == reason::BAND_FULL));
    assert!(!plan.problems.is_empty());
    assert!(plan.rules.iter().all(|rule| (1145..=1171).contains(&rule.priority)));
    assert!(
        plan.rules.iter().any(|rule| rule.destination == Some(net("10.0.0.0/30"))),
        "the most specific are in"
    );
}

#[test]
fn prefix_lists_mean_what_routers_mean() {
    let entry = PrefixMatch { prefix: net("10.20.0.0/16"), ge: 17, le: 24 };
    for (prefix, matches) in [
        ("10.20.0.0/16", false),
        ("10.20.0.0/17", true),
        ("10.20.3.0/24", true),
        ("10.20.3.0/25", false),
        ("10.21.0.0/24", false),
    ] {
        assert_eq!(entry.matches(&net(prefix)), matches, "{prefix}");
    }
}

#[test]
fn protected_prefixes_cover_what_lies_inside() {
    let config = Config { protected_prefixes: vec![net("10.96.0.0/12")], ..Config::default() };
    let plan = compile(&Intent { config, ..Intent::default() }, vec![link(2, "e1", &["192.0.2.1/24"])]);
    for (prefix, protected) in [
        ("10.96.0.0/12", true),
        ("10.97.1.0/24", true),
        ("10.0.0.0/8", false),
        ("192.0.2.1/32", true),
        ("192.0.2.0/24", false),
    ] {
        assert_eq!(plan.is_protected(&net(prefix)), protected, "{prefix}");
    }
}

#[test]
fn weights_stay_in_proportion() {
    let hop = |last: u8| crate::model::Hop {
        gateway: Some(IpAddr::from([192, 0, 2, last])),
        ifindex: 2,
        onlink: false,
        family: Family::Ipv4,
    };
    let mut hops: HopSet = [(hop(1), 1000), (hop(2), 500), (hop(3), 1)].into_iter().collect();
    scale_weights(&mut hops);
    assert_eq!(hops.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [256, 128, 1]);
}

fn owned(link: Link) -> Link {
    Link { alias: Some("backtrail".to_owned()), ..link }
}

fn vrf_device(ifindex: u32, name: &str, table: u32) -> Link {
    Link { kind: "vrf".to_owned(), vrf_table: Some(table), ..link(ifindex, name, &[]) }
}

fn created(interfaces: &[&str]) -> Intent {
    Intent { vrfs: vec![Vrf { mode: VrfMode::Create, ..vrf(interfaces) }], ..Intent::default() }
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn a_vrf_device_has_members_and_an_end_but_neither_rules_nor_copies() {
    let plan = compile(&created(&["e1"]), vec![link(2, "e1", &["10.0.1.1/24"])]);
    assert_eq!(plan.devices.vrfs, [("red".to_owned(), 10001)].into());
    let member = &plan.devices.interfaces["e1"];
    assert_eq!(member.vrf.as_ref().map(|vrf| (vrf.name.as_str(), vrf.table)), Some(("red", 10001)));
    assert!(plan.rules.is_empty() && plan.problems.is_empty());
    assert_eq!(plan.static_routes.len(), 2, "the ends of both families");
    assert_eq!(plan.sysctls["net/ipv6/conf/e1/keep_addr_on_down"], "1");
    assert!(
        !plan.sysctls.contains_key("net/ipv4/tcp_l3mdev_accept"),
        "nothing is opened before the device is there"
    );
}

#[test]
fn a_device_of_another_kind_or_table_is_named_and_nothing_is_moved() {
    let e1 = || link(2, "e1", &[]);
    let adopt = |device: Option<Link>| {
        let intent = Intent { vrfs: vec![Vrf { mode: VrfMode::Adopt, ..vrf(&["e1"]) }], ..Intent::default() };
        compile(&intent, [Some(e1()), device].into_iter().flatten().collect())
    };
    for (plan, reason, words) in [
        (adopt(None), reason::INTERFACE_NOT_FOUND, "red does not exist"),
        (
            adopt(Some(vrf_device(3, "red", 5))),
            reason::VRF_TABLE_MISMATCH,
            "has table 5, and VRF red is to have 10001",
        ),
        (
            compile(&created(&["e1"]), vec![e1(), vrf_device(3, "red", 5)]),
            reason::VRF_TABLE_MISMATCH,
            "table 5",
        ),
        (
            compile(&created(&["e1"]), vec![e1(), vrf_device(3, "blue", 10001)]),
            reason::TABLE_REUSED,
            "device blue",
        ),
        (
            compile(&created(&["e1"]), vec![e1(), link(3, "red", &[])]),
            reason::DEVICE_MISMATCH,
            "kind physical",
        ),
    ] {
        assert_eq!(reasons(&plan), [reason]);
        assert!(plan.problems[0].message.contains(words), "{}", plan.problems[0].message);
        assert!(plan.devices.interfaces.is_empty() && plan.devices.vrfs.is_empty());
    }
    let ours = compile(&created(&["e1"]), vec![e1(), owned(vrf_device(3, "red", 5))]);
    assert!(ours.problems.is_empty(), "a device of ours with an old table is made anew");
    assert!(adopt(Some(vrf_device(3, "red", 10001))).problems.is_empty());
}

#[test]
fn a_member_of_somebody_elses_device_is_not_taken_from_it() {
    let bond = Link { kind: "bond".to_owned(), ..link(3, "bond0", &[]) };
    let port = Link { master: Some(3), ..link(2, "e1", &[]) };
    let plan = compile(&created(&["e1"]), vec![bond, port.clone()]);
    assert_eq!(reasons(&plan), [reason::INTERFACE_HAS_CONTROLLER]);
    assert!(plan.problems[0].message.contains("bond0 (bond)"));
    assert!(plan.devices.interfaces.is_empty());
    let ours = compile(&created(&["e1"]), vec![owned(vrf_device(3, "blue", 10002)), port]);
    assert!(ours.problems.is_empty(), "between our own devices interfaces move");
}

#[test]
fn a_member_of_ours_that_somebody_put_elsewhere_is_not_taken_back() {
    let changed = Changed { member: true, tables: [77].into(), ..Changed::default() };
    let facts = NodeFacts { moved: [(2, changed)].into(), ..NodeFacts::default() };
    let bridge = Link { kind: "bridge".to_owned(), ..link(3, "br0", &[]) };
    for (master, reasons_then) in [
        (bridge, vec![reason::INTERFACE_HAS_CONTROLLER]),
        (vrf_device(3, "blue", 88), vec![reason::INTERFACE_HAS_CONTROLLER]),
        (vrf_device(3, "blue", 77), vec![]),
    ] {
        let port = Link { master: Some(3), ..link(2, "e1", &[]) };
        let plan = compile_with(&created(&["e1"]), &by_index([master, port]), &facts);
        assert_eq!(reasons(&plan), reasons_then);
    }
}

#[test]
fn addresses_of_the_host_outlive_the_one_of_a_manifest() {
    let promote = |addresses: &[&str]| {
        let mut intent = created(&["e1"]);
        intent.vrfs[0].interfaces[0].addresses = addresses.iter().map(|address| net(address)).collect();
        let plan = compile(&intent, vec![link(2, "e1", &[])]);
        plan.sysctls.get("net/ipv4/conf/e1/promote_secondaries").cloned()
    };
    assert_eq!(promote(&["2001:db8::1/64", "198.51.100.2/24"]).as_deref(), Some("1"));
    assert_eq!(promote(&["2001:db8::1/64"]), None);
}

#[test]
fn a_vlan_is_made_in_every_mode_but_adopt() {
    let parent = || link(2, "e1", &[]);
    for (mode, adopted, words) in [
        (VrfMode::Create, false, "does its parent e1 exist"),
        (VrfMode::TableOnly, false, "does its parent e1 exist"),
        (VrfMode::Adopt, true, "Adopt waits until somebody makes it"),
    ] {
        let mut intent = created(&["e1.7"]);
        intent.vrfs[0].mode = mode;
        intent.vrfs[0].interfaces[0].vlan = Some(Vlan { parent: "e1".to_owned(), id: 7, mtu: None });
        let plan = compile(&intent, vec![parent(), vrf_device(3, "red", 10001)]);
        assert_eq!(plan.devices.interfaces["e1.7"].adopted, adopted);
        assert!(plan.problems[0].message.contains(words), "{}", plan.problems[0].message);
        assert_eq!(
            (plan.devices.vrfs.len(), plan.devices.adopted.len()),
            match mode {
                VrfMode::Create => (1, 0),
                VrfMode::Adopt => (0, 1),
                VrfMode::TableOnly => (0, 0),
            }
        );
    }
}

#[test]
fn a_foreign_vlan_of_another_id_is_not_taken_for_ours() {
    let mut intent = created(&["e1.7"]);
    let vlan = |id| Some(Vlan { parent: "e1".to_owned(), id, mtu: None });
    intent.vrfs[0].interfaces[0].vlan = vlan(8);
    let seven = Link { kind: "vlan".to_owned(), vlan: Some(7), lower: Some(2), ..link(3, "e1.7", &[]) };
    let plan = compile(&intent, vec![link(2, "e1", &[]), seven.clone()]);
    assert_eq!(reasons(&plan), [reason::DEVICE_MISMATCH]);
    assert!(plan.problems[0].message.contains("is VLAN 7 on e1"), "{}", plan.problems[0].message);
    intent.vrfs[0].interfaces[0].vlan = vlan(7);
    assert!(compile(&intent, vec![link(2, "e1", &[]), seven]).problems.is_empty());
}

#[test]
fn reverse_path_filters_look_where_the_kernel_looks() {
    let facts = |tables: &[u32]| NodeFacts {
        defaults: tables.iter().map(|table| (*table, Family::Ipv4)).collect(),
        ..NodeFacts::default()
    };
    let key = "net/ipv4/conf/e1/rp_filter";
    let filter = |intent: &Intent, facts: &NodeFacts| {
        let links = [link(2, "e1", &[]), vrf_device(3, "red", 10001)];
        let plan = compile_with(intent, &by_index(links), facts);
        plan.sysctls.get(key).cloned()
    };
    let table_only = Intent { vrfs: vec![vrf(&["e1"])], ..Intent::default() };
    let device = created(&["e1"]);
    assert_eq!(filter(&table_only, &facts(&[TABLE_MAIN])).as_deref(), Some("2"));
    assert_eq!(filter(&table_only, &facts(&[10001])).as_deref(), Some("0"), "iif rules do not count");
    assert_eq!(filter(&device, &facts(&[10001])).as_deref(), Some("2"));
    assert_eq!(filter(&device, &facts(&[TABLE_MAIN])).as_deref(), Some("0"));
    for (wanted, value) in
        [(RpFilter::Strict, Some("1")), (RpFilter::Loose, Some("2")), (RpFilter::Unmanaged, None)]
    {
        let mut intent = created(&["e1"]);
        intent.vrfs[0].rp_filter = wanted;
        assert_eq!(filter(&intent, &facts(&[])).as_deref(), value);
    }
}

#[test]
fn a_vrf_device_accepts_for_unbound_services_and_forwards_where_the_node_does() {
    let facts = NodeFacts { forwarding: [Family::Ipv4].into(), ..NodeFacts::default() };
    let links = [link(2, "e1", &[]), vrf_device(3, "red", 10001)];
    let plan = compile_with(&created(&["e1"]), &by_index(links), &facts);
    for key in ["tcp_l3mdev_accept", "udp_l3mdev_accept", "conf/red/forwarding", "conf/e1/forwarding"] {
        assert_eq!(plan.sysctls.get(&format!("net/ipv4/{key}")).map(String::as_str), Some("1"), "{key}");
    }
    assert!(!plan.sysctls.contains_key("net/ipv6/conf/red/forwarding"));
}

#[test]
fn routes_that_main_lost_by_a_member_are_in_its_vrf() {
    let mut route = statics_route("0.0.0.0/0", 100);
    route.protocol = 16;
    let facts = NodeFacts {
        moved: [(2, Changed { routes: vec![route], ..Changed::default() })].into(),
        ..NodeFacts::default()
    };
    let compile = |master| {
        let links = [Link { master, ..link(2, "e1", &["10.0.1.1/24"]) }, owned(vrf_device(3, "red", 10001))];
        compile_with(&created(&["e1"]), &by_index(links), &facts)
    };
    assert!(route_to(&compile(None), "0.0.0.0/0", 100).is_none(), "not before it is a member");
    let plan = compile(Some(3));
    let moved = route_to(&plan, "0.0.0.0/0", 100).unwrap();
    assert_eq!((moved.purpose, moved.route.protocol), (reason::MOVED_ROUTE, 201));
}

fn statics_route(prefix: &str, metric: u32) -> KernelRoute {
    let hop = crate::model::Hop {
        gateway: Some(IpAddr::from([10, 0, 1, 254])),
        ifindex: 2,
        onlink: false,
        family: Family::Ipv4,
    };
    KernelRoute {
        key: RouteKey { table: TABLE_MAIN, prefix: net(prefix), metric },
        target: RouteTarget::Inline(vec![(hop, 1)]),
        preferred_source: None,
        mtu: None,
        protocol: 4,
        scope_link: false,
    }
}

#[test]
fn what_the_node_knows_is_excepted_protected_and_only_where_it_is_asked_for() {
    let facts = NodeFacts {
        pod_cidrs: [net("10.244.0.0/16")].into(),
        service_cidrs: [net("10.96.0.0/12")].into(),
        node_cidrs: [net("172.18.0.0/16")].into(),
        api_servers: [IpAddr::from([172, 18, 0, 9])].into(),
        bgp_peers: ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()].into(),
        ..NodeFacts::default()
    };
    let compile = |intent: &Intent| compile_with(intent, &Links::new(), &facts);
    let mut intent = created(&[]);
    let exceptions = |plan: &Plan| {
        let lead: Vec<String> = plan
            .rules
            .iter()
            .filter(|r| r.priority == 1100)
            .filter_map(|r| Some(r.destination?.to_string()))
            .collect();
        let thrown: Vec<String> = plan
            .static_routes
            .values()
            .filter(|route| route.route.target == RouteTarget::Special(Special::Throw))
            .map(|route| route.route.key.prefix.to_string())
            .collect();
        (lead, thrown)
    };
    let all = ["10.96.0.0/12", "10.244.0.0/16", "172.18.0.0/16"].map(str::to_owned).to_vec();
    let plan = compile(&intent);
    let (mut lead, thrown) = exceptions(&plan);
    lead.sort_by_key(|prefix| net(prefix));
    assert_eq!((lead, thrown), (all.clone(), all), "the VRF's table lets go, the rule leads to main");
    intent.vrfs[0].auto_exceptions = false;
    assert_eq!(exceptions(&compile(&intent)), (Vec::new(), Vec::new()));
    let asks = policy("p", "10.0.0.0/8");
    intent.rules = vec![asks.clone()];
    assert_eq!(exceptions(&compile(&intent)).0, [""; 0], "the attachment has the last word");
    let (lead, _) = exceptions(&compile(&Intent { rules: vec![asks], ..Intent::default() }));
    assert_eq!(lead.len(), 3, "a policy without an attachment leaves the cluster alone");

    for (kind, inside, outside) in [
        (AutoProtect::PodCIDRs, "10.244.3.0/24", "10.96.0.1/32"),
        (AutoProtect::ServiceCIDRs, "10.96.0.1/32", "10.244.3.0/24"),
        (AutoProtect::APIServer, "172.18.0.9/32", "172.18.0.0/24"),
        (AutoProtect::BGPPeers, "192.0.2.1/32", "192.0.2.0/24"),
    ] {
        intent.config.auto_protect = [kind].into();
        let plan = compile(&intent);
        assert!(plan.is_protected(&net(inside)) && !plan.is_protected(&net(outside)), "{kind:?}");
    }
}

#[test]
fn a_table_that_others_use_is_left_alone_by_everybody_who_asks_for_it() {
    let facts =
        NodeFacts { occupied: [(10001, "3 of protocol 186".to_owned())].into(), ..NodeFacts::default() };
    let intent = Intent { rules: vec![policy("p", "10.0.0.0/8")], ..created(&["e1"]) };
    let links: Links = [(2, link(2, "e1", &[]))].into();
    let plan = compile_with(&intent, &links, &facts);
    assert_eq!(reasons(&plan), [reason::TABLE_OCCUPIED; 2]);
    assert!(plan.problems[0].message.contains("3 of protocol 186"));
    assert!(plan.rules.is_empty() && plan.static_routes.is_empty() && plan.devices == Devices::default());
    assert!(!compile_with(&intent, &links, &NodeFacts::default()).rules.is_empty());
}
