use std::net::IpAddr;

use super::*;
use crate::intent::types::*;
use crate::model::{Address, Link, RouteTarget, RuleAction, Special};
use crate::status::reason;

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

fn link(ifindex: u32, name: &str, addresses: &[&str]) -> Link {
    let address = |text: &&str| Address {
        net: net(text),
        peer: None,
        no_prefix_route: false,
        tentative: false,
        metric: 0,
    };
    Link {
        ifindex,
        name: name.to_owned(),
        kind: String::new(),
        up: true,
        carrier: true,
        noarp: false,
        arphrd: 1,
        mtu: 1500,
        mac: None,
        master: None,
        lower: None,
        vlan: None,
        keeps_tag: false,
        vrf_table: None,
        alias: None,
        addresses: addresses.iter().map(address).collect(),
    }
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
    let links = links.into_iter().map(|link| (link.ifindex, link)).collect();
    Plan::compile(PlanInput { intent, links: &links, zebra_tables: &BTreeSet::new() })
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
