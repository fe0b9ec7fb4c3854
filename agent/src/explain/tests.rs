use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::intent;
use crate::kernel::lookup::Answer;
use crate::model::{Address, Hop, Link, RouteTarget, RuleAction, Special};
use crate::plan::steering::{Learn, PathKey, PathKind, SteeredInterface, SteeringPlan};
use crate::plan::{NodeFacts, Plan, PlanInput};
use crate::status::reason;

const MANIFESTS: &str = "
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec:
  vrf: {name: red, table: 10001}
  interfaces: [{name: e2}]
  clusterExceptions: {extraCIDRs: [10.96.0.0/12]}
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: bgp}
spec: {from: {table: 5000}, into: {vrf: {name: red, table: 10001}}, allowed: {mode: All}}
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: to-red}
spec:
  rules:
  - name: web
    match: {destinations: [10.20.0.0/16], protocol: TCP, destinationPorts: [{from: 80, to: 443}]}
    action: {vrf: {name: red, table: 10001}}
---
apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: replies}
spec: {interfaces: [{name: e3}]}
";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(ifindex: u32, address: &str) -> Link {
    let addresses = vec![Address::plain(address.parse().unwrap())];
    Link { addresses, ..Link::ethernet(ifindex, format!("e{ifindex}")) }
}

fn route(table: u32, prefix: &str, metric: u32, gateway: &str, ifindex: u32, protocol: u8) -> KernelRoute {
    let prefix: IpNet = prefix.parse().unwrap();
    let hop = Hop { gateway: Some(ip(gateway)), ifindex, onlink: false, family: Family::Ipv4 };
    KernelRoute {
        key: RouteKey { table, prefix, metric },
        target: RouteTarget::Inline(vec![(hop, 1)]),
        preferred_source: None,
        mtu: None,
        protocol,
        scope_link: false,
    }
}

fn builtin(priority: u32, table: u32) -> Rule {
    Rule::all(Family::Ipv4, priority, RuleAction::Lookup(table), 2)
}

/// The kernel as the agent would have made it, with a default route of a DHCP client beside it.
struct Bench {
    intent: Intent,
    links: Links,
    rules: Vec<Rule>,
    routes: BTreeMap<u32, Vec<KernelRoute>>,
    nexthops: BTreeMap<NexthopId, NexthopBody>,
    owners: BTreeMap<RouteKey, String>,
}

impl Bench {
    fn new() -> Self {
        let loaded = intent::load_text(Path::new("test.yaml"), MANIFESTS);
        assert_eq!(loaded.errors, []);
        let intent = intent::build(&loaded, &BTreeMap::new(), None);
        let links: Links = [link(1, "192.0.2.9/24"), link(2, "192.0.3.9/24"), link(3, "192.0.4.9/24")]
            .map(|l| (l.ifindex, l))
            .into();
        let zebra = crate::plan::ZebraTables::default();
        let plan = Plan::compile(PlanInput {
            intent: &intent,
            links: &links,
            zebra: &zebra,
            facts: &NodeFacts::default(),
        });
        let mut rules = vec![builtin(0, 255), builtin(32766, 254), builtin(32767, 253)];
        rules.extend(plan.rules);
        let learned = route(10001, "10.20.0.0/16", 20, "192.0.3.1", 2, 201);
        let owners = BTreeMap::from([(learned.key, "RouteImport/bgp".to_owned())]);
        let routes = BTreeMap::from([
            (10001, vec![learned]),
            (254, vec![route(254, "0.0.0.0/0", 100, "192.0.2.1", 1, 16)]),
        ]);
        Self { intent, links, rules, routes, nexthops: BTreeMap::new(), owners }
    }

    fn world(&self) -> World<'_> {
        World {
            rules: &self.rules,
            routes: &self.routes,
            nexthops: &self.nexthops,
            links: &self.links,
            intent: &self.intent,
            owners: &self.owners,
        }
    }

    fn walk(&self, destination: &str, flow: Option<(u8, u16, u16)>, iif: Option<u32>) -> Walk {
        let source = Some(ip(if iif.is_some() { "203.0.113.7" } else { "192.0.2.9" }));
        walk(&Packet { source, destination: ip(destination), flow, iif }, &self.world())
    }
}

/// Kind, owner or maker, and outcome of each step.
fn story(walk: &Walk) -> Vec<String> {
    let by = |step: &Step| step.owner.clone().or(step.foreign.clone()).unwrap_or_default();
    walk.steps.iter().map(|step| format!("{} {} ({})", step.kind, step.outcome, by(step))).collect()
}

const WEB: Option<(u8, u16, u16)> = Some((6, 40000, 443));

#[test]
fn each_step_names_its_object() {
    let bench = Bench::new();
    let walk = bench.walk("10.20.1.1", WEB, None);
    assert_eq!(
        story(&walk),
        [
            "rule looks up table 10001 (TrafficPolicy/to-red)",
            "route longest prefix, lowest metric (RouteImport/bgp)",
            "nexthop the only one ()"
        ]
    );
    let answer = Answer { table: 10001, kind: 1, oif: Some(2), gateway: Some(ip("192.0.3.1")), source: None };
    let (shown, differs) = check(&walk, &Ok(answer), None, &bench.world());
    assert_eq!((differs, shown.dev.as_deref()), (None, Some("e2")));
}

#[test]
fn what_no_rule_of_ours_selects_goes_by_main_and_is_told_as_foreign() {
    let bench = Bench::new();
    for (destination, flow) in [("10.20.1.1", Some((6, 40000, 22))), ("10.20.1.1", None), ("8.8.8.8", WEB)] {
        let walk = bench.walk(destination, flow, None);
        assert_eq!(
            story(&walk),
            [
                "rule looks up table 254 (kernel)",
                "route longest prefix, lowest metric (dhcp)",
                "nexthop the only one ()"
            ]
        );
    }
    // What comes in by the VRF's interface stays in its table.
    let walk = bench.walk("10.20.1.1", Some((17, 1, 53)), Some(2));
    assert_eq!(story(&walk)[0], "rule looks up table 10001 (VRFAttachment/red)");
    let walk = bench.walk("10.96.0.10", WEB, Some(2));
    assert_eq!(story(&walk)[0], "rule looks up table 254 (VRFAttachment/red)", "an exception");
}

#[test]
fn a_table_without_a_route_goes_on_or_ends_as_the_policy_says() {
    let mut bench = Bench::new();
    bench.routes.remove(&10001);
    let walk = bench.walk("10.20.1.1", WEB, None);
    assert_eq!(
        story(&walk),
        [
            "rule looks up table 10001: no route, goes on (TrafficPolicy/to-red)",
            "rule refused: unreachable (TrafficPolicy/to-red)"
        ]
    );
    assert_eq!(walk.end, End::Special(Special::Unreachable));
    for errno in [libc::ENETUNREACH, libc::EHOSTUNREACH] {
        assert_eq!(check(&walk, &Err(errno), None, &bench.world()).1, None);
    }
}

#[test]
fn an_address_of_the_node_is_local() {
    let bench = Bench::new();
    for address in ["192.0.4.9", "192.0.2.9"] {
        assert_eq!(bench.walk(address, WEB, Some(2)).end, End::Local);
    }
    let answer = Answer { table: 255, kind: 2, oif: Some(1), gateway: None, source: None };
    let walk = bench.walk("192.0.4.9", WEB, Some(2));
    assert_eq!(check(&walk, &Ok(answer), None, &bench.world()).1, None);
}

#[test]
fn the_lower_metric_wins_and_a_route_over_a_downed_link_is_none() {
    let mut bench = Bench::new();
    bench.routes.get_mut(&254).unwrap().push(route(254, "0.0.0.0/0", 50, "192.0.4.1", 3, 4));
    let by = |walk: &Walk| match &walk.end {
        End::Route(_, hops) => hops[0].0.ifindex,
        end => panic!("{end:?}"),
    };
    assert_eq!(by(&bench.walk("8.8.8.8", None, None)), 3);
    bench.links.get_mut(&3).unwrap().up = false;
    assert_eq!(by(&bench.walk("8.8.8.8", None, None)), 1);
}

#[test]
fn a_mismatch_is_shown_with_the_rule_that_may_be_behind_it() {
    let mut bench = Bench::new();
    let mark = Rule { action: RuleAction::Other(1), protocol: 3, ..builtin(500, 0) };
    bench.rules.push(mark);
    let walk = bench.walk("10.20.1.1", WEB, None);
    let answer = Answer { table: 254, kind: 1, oif: Some(1), gateway: Some(ip("192.0.2.1")), source: None };
    let (_, differs) = check(&walk, &Ok(answer), None, &bench.world());
    let differs = differs.unwrap();
    assert!(differs.contains("table 254") && differs.contains("500: from all"), "{differs}");
    let (_, differs) = check(&walk, &Err(libc::EXDEV), None, &bench.world());
    assert!(differs.unwrap().contains("rp_filter"));
}

#[test]
fn rules_of_others_that_refuse_are_followed() {
    for (action, end, errno) in [
        (RuleAction::Prohibit, Special::Prohibit, libc::EACCES),
        (RuleAction::Blackhole, Special::Blackhole, libc::EINVAL),
    ] {
        let mut bench = Bench::new();
        let net = |prefix: &str| Some(prefix.parse().unwrap());
        bench.rules.push(Rule { action, protocol: 4, destination: net("10.20.1.0/24"), ..builtin(500, 0) });
        let walk = bench.walk("10.20.1.1", WEB, None);
        assert_eq!(walk.end, End::Special(end));
        assert_eq!(check(&walk, &Err(errno), None, &bench.world()).1, None);
        assert_ne!(bench.walk("10.20.2.1", WEB, None).end, End::Special(end), "for others it is none");
    }
}

#[test]
fn groups_show_every_member_and_the_kernel_may_choose_any() {
    let mut bench = Bench::new();
    let hop =
        |gateway, ifindex| Hop { gateway: Some(ip(gateway)), ifindex, onlink: true, family: Family::Ipv4 };
    let member = |id| crate::model::Member { id: NexthopId(id), weight: 2 };
    bench.nexthops.insert(NexthopId(1), NexthopBody::Single(hop("192.0.3.1", 2)));
    bench.nexthops.insert(NexthopId(2), NexthopBody::Single(hop("192.0.4.1", 3)));
    bench.nexthops.insert(NexthopId(3), NexthopBody::Group(vec![member(1), member(2)]));
    bench.routes.get_mut(&10001).unwrap()[0].target = RouteTarget::Nexthop(NexthopId(3));
    let walk = bench.walk("10.20.1.1", WEB, None);
    let hops: Vec<&str> =
        walk.steps.iter().filter(|s| s.kind == StepKind::Nexthop).map(|s| s.object.as_str()).collect();
    assert_eq!(hops, ["via 192.0.3.1 dev e2 weight 2", "via 192.0.4.1 dev e3 weight 2"]);
    let resilience = crate::model::Resilience { buckets: 128, idle_timer: 0 };
    bench.nexthops.insert(NexthopId(3), NexthopBody::Resilient(vec![member(1), member(2)], resilience));
    assert_eq!(bench.walk("10.20.1.1", WEB, None), walk, "a resilient group has them, too");
    for (gateway, oif, agrees) in [("192.0.3.1", 2, true), ("192.0.4.1", 3, true), ("192.0.2.1", 1, false)] {
        let answer =
            Answer { table: 10001, kind: 1, oif: Some(oif), gateway: Some(ip(gateway)), source: None };
        assert_eq!(check(&walk, &Ok(answer), None, &bench.world()).1.is_none(), agrees, "{gateway}");
    }
}

/// `e3` learns, `e1` has the egress program alone.
fn steering(enforce: bool, up: bool) -> SteeringPlan {
    let interface = |name: &str, learn| SteeredInterface {
        name: name.to_owned(),
        zone: 0,
        table: 254,
        mac: None,
        ethernet: true,
        tagged: false,
        uplink: true,
        sink: false,
        learn,
    };
    let key = PathKey { ifindex: 3, family: Family::Ipv4, kind: PathKind::Auto(None) };
    let learn = Learn {
        enforce,
        drop_on_path_down: false,
        protocols: std::collections::BTreeSet::new(),
        virtual_ips: std::collections::BTreeSet::new(),
        except_sources: std::collections::BTreeSet::new(),
        except_ports: std::collections::BTreeSet::new(),
        default_ipv4: key,
        default_ipv6: PathKey { family: Family::Ipv6, ..key },
    };
    let path = crate::plan::steering::Path {
        up,
        drop_when_down: false,
        enforce,
        zone: 0,
        table: 254,
        mtu: 1500,
        ethernet: true,
        mac: None,
    };
    SteeringPlan {
        interfaces: [(1, interface("e1", None)), (3, interface("e3", Some(learn)))].into(),
        paths: [(key, path)].into(),
        ..SteeringPlan::default()
    }
}

#[test]
fn the_program_sends_a_reply_back_by_the_way_its_request_came() {
    let bench = Bench::new();
    let known = Known { ifindex: 3, gateway: Some(ip("192.0.4.1")), node_origin: false };
    let says = |plan: &SteeringPlan, known: Option<&Known>, by: u32| {
        let (step, redirect) = egress(by, Family::Ipv4, known, plan, &bench.world()).unwrap();
        (step.outcome, step.owner, redirect.map(|redirect| redirect.ifindex))
    };
    let (outcome, owner, redirect) = says(&steering(true, true), Some(&known), 1);
    assert_eq!((owner.as_deref(), redirect), (Some("ReturnPath/replies"), Some(3)));
    assert_eq!(outcome, "redirected via 192.0.4.1 dev e3, where its requests come in");
    for (plan, known, by, words) in [
        (steering(false, true), Some(known), 1, "Shadow"),
        (steering(true, false), Some(known), 1, "is down"),
        (steering(true, true), Some(known), 3, "by this interface"),
        (steering(true, true), Some(Known { node_origin: true, ..known }), 1, "opened the flow"),
        (steering(true, true), None, 1, "not in the flow table"),
    ] {
        let (outcome, _, redirect) = says(&plan, known.as_ref(), by);
        assert!(outcome.starts_with("passes") && outcome.contains(words), "{words}: {outcome}");
        assert_eq!(redirect, None);
    }
    assert!(egress(2, Family::Ipv4, Some(&known), &steering(true, true), &bench.world()).is_none());
    let seen = ingress(3, Some(&known), ip("192.0.2.9"), &steering(true, true), &bench.world()).unwrap();
    assert_eq!((seen.object.as_str(), seen.owner.as_deref()), ("e3 ingress", Some("ReturnPath/replies")));
}

#[test]
fn what_keeps_a_route_out_is_named_with_its_field() {
    let mut bench = Bench::new();
    bench.intent.config.protected_prefixes = vec!["10.9.0.0/16".parse().unwrap()];
    let why = |reason: &str, prefix: &str, table: u32| {
        cause(reason, &prefix.parse().unwrap(), table, &bench.intent, &bench.links).unwrap_or_default()
    };
    for (reason, prefix, table, words) in [
        (reason::PROTECTED_PREFIX, "10.9.1.0/24", 5000, "guardrails.protectedPrefixes (10.9.0.0/16)"),
        (reason::PROTECTED_PREFIX, "192.0.2.9/32", 5000, "NodeAddresses: it is the address of e1"),
        (reason::DEFAULT_ROUTE_REJECTED, "0.0.0.0/0", 5000, "defaultRoute (Reject) of RouteImport/bgp"),
        (reason::NOT_ALLOWED, "10.1.0.0/16", 5000, "allowed of RouteImport/bgp"),
        (reason::NO_IMPORT, "10.1.0.0/16", 7, "from.table 7"),
        (reason::MAX_ROUTES_PER_NODE, "10.1.0.0/16", 5000, "maxRoutesPerNode (200000)"),
    ] {
        assert!(why(reason, prefix, table).contains(words), "{reason}: {}", why(reason, prefix, table));
    }
    assert_eq!(why(reason::IMPORTED, "10.1.0.0/16", 5000), "");
}

#[test]
fn targets_are_read_and_written_alike() {
    for text in [
        "10.0.0.1",
        "2001:db8::1",
        "10.0.0.0/8",
        "tcp 203.0.113.9:40000 198.51.100.10:443",
        "udp [2001:db8::1]:5000 [2001:db8::2]:53",
        "icmp 203.0.113.9:7 198.51.100.10:0",
    ] {
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
    }
    assert_eq!("10.1.2.3/8".parse::<Target>().unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(
        "ICMP 203.0.113.9 198.51.100.10".parse::<Target>().unwrap().to_string(),
        "icmp 203.0.113.9:0 198.51.100.10:0"
    );
    for bad in [
        "",
        "eth0",
        "tcp 10.0.0.1 10.0.0.2",
        "tcp 10.0.0.1:1 [::1]:2",
        "gre 10.0.0.1:1 10.0.0.2:2",
        "10.0.0.1 10.0.0.2",
    ] {
        let error = bad.parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("203.0.113.9:40000"), "{bad}: {error}");
    }
}
