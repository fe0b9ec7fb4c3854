//! The plan of steering, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::intent::types::{GatewaySource, PolicyProtocol, ReturnPathInterface, Vrf, VrfMode};
use crate::model::{Address, NeighbourState, RouteTarget, RuleAction};
use crate::status::reason;

const MAIN_DEFAULTS: [(u32, Family); 2] = [(254, Family::Ipv4), (254, Family::Ipv6)];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A node: `lo`, `vdef` (2) with the default route, `vred` (3) and `vblue` (4).
#[derive(Debug, Clone)]
struct Node {
    intent: Intent,
    links: Vec<Link>,
    tables: BTreeMap<u32, u32>,
    gateways: BTreeMap<(u32, Family), BTreeSet<IpAddr>>,
    neighbours: Vec<Neighbour>,
    carrying: BTreeSet<u32>,
    defaults: BTreeSet<(u32, Family)>,
    cluster: BTreeSet<IpNet>,
}

impl Node {
    fn new(return_paths: Vec<ReturnPathInterface>) -> Self {
        let mut lo = link(1, "lo");
        lo.arphrd = 772;
        Self {
            intent: Intent { return_paths, ..Intent::default() },
            links: vec![lo, link(2, "vdef"), link(3, "vred"), link(4, "vblue")],
            tables: BTreeMap::new(),
            gateways: BTreeMap::new(),
            neighbours: Vec::new(),
            carrying: BTreeSet::from([1, 2]),
            defaults: MAIN_DEFAULTS.into_iter().collect(),
            cluster: BTreeSet::new(),
        }
    }

    fn plan(&self) -> SteeringPlan {
        steering(&SteeringInput {
            intent: &self.intent,
            links: &self.links,
            tables: &self.tables,
            gateways: &self.gateways,
            neighbours: &self.neighbours,
            carrying: &self.carrying,
            defaults: &self.defaults,
            cluster: &self.cluster,
        })
    }

    fn gateway(mut self, ifindex: u32, address: &str) -> Self {
        let address = ip(address);
        self.gateways.entry((ifindex, Family::of_addr(&address))).or_default().insert(address);
        self
    }

    fn neighbour(mut self, ifindex: u32, address: &str, mac: Option<[u8; 6]>, state: NeighbourState) -> Self {
        self.neighbours.push(Neighbour {
            ifindex,
            address: ip(address),
            mac,
            state,
            managed: false,
            protocol: 0,
        });
        self
    }

    fn with_sink(mut self) -> Self {
        self.links.push(link(9, SINK_NAME));
        self
    }

    fn link(&mut self, name: &str) -> &mut Link {
        self.links.iter_mut().find(|link| link.name == name).expect("a link of the test's node")
    }
}

fn link(ifindex: u32, name: &str) -> Link {
    let last = u8::try_from(ifindex).expect("small");
    let net: IpNet = format!("10.0.{last}.2/24").parse().expect("a prefix");
    Link {
        kind: "veth".to_owned(),
        mac: Some([2, 0, 0, 0, 1, last]),
        addresses: vec![Address::plain(net)],
        ..Link::ethernet(ifindex, name)
    }
}

fn asked(name: &str) -> ReturnPathInterface {
    ReturnPathInterface {
        name: name.to_owned(),
        gateway: GatewaySource::Auto,
        virtual_ips: Vec::new(),
        protocols: BTreeSet::from([PolicyProtocol::TCP]),
        except_sources: Vec::new(),
        except_ports: Vec::new(),
        enforce: true,
        drop_on_path_down: false,
        manage_rp_filter: true,
        owners: vec![ObjectRef { kind: "ReturnPath".to_owned(), name: "lb".to_owned() }],
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn key(ifindex: u32, family: Family, kind: PathKind) -> PathKey {
    PathKey { ifindex, family, kind }
}

fn learn(plan: &SteeringPlan, ifindex: u32) -> &Learn {
    plan.interfaces.get(&ifindex).and_then(|interface| interface.learn.as_ref()).expect("listed")
}

#[test]
fn nothing_asked_nothing_done() {
    assert_eq!(Node::new(Vec::new()).plan(), SteeringPlan::default());
}

#[test]
fn listed_and_carrying_interfaces_get_programs() {
    let plan = Node::new(vec![asked("vred")]).plan();
    assert_eq!(
        plan.interfaces.keys().copied().collect::<Vec<_>>(),
        [2, 3],
        "lo carries routes, and yet has none"
    );
    assert!(plan.interfaces[&2].learn.is_none());
    assert!(plan.interfaces[&3].learn.is_some());
    assert_eq!(plan.conditions, []);
}

#[test]
fn named_egress_interfaces_replace_the_choice() {
    let mut node = Node::new(vec![asked("vred")]);
    node.intent.steering.egress_interfaces = BTreeSet::from(["vbl*".to_owned(), "gone0".to_owned()]);
    let plan = node.plan();
    assert_eq!(plan.interfaces.keys().copied().collect::<Vec<_>>(), [3, 4]);
    let [condition] = &plan.conditions[..] else { panic!("{:?}", plan.conditions) };
    assert_eq!(
        (condition.reason, condition.item.as_str()),
        (reason::INTERFACE_NOT_FOUND, "egressInterfaces[gone0]")
    );
}

#[test]
fn a_downed_carrier_of_routes_is_not_chosen() {
    let mut node = Node::new(vec![asked("vred")]);
    node.link("vdef").up = false;
    assert!(!node.plan().interfaces.contains_key(&2));
}

#[test]
fn an_exact_name_wins_over_globs() {
    let shadow = ReturnPathInterface { enforce: false, ..asked("v*") };
    let plan = Node::new(vec![shadow, asked("vred")]).plan();
    assert!(learn(&plan, 3).enforce);
    assert!(!learn(&plan, 2).enforce);
    assert!(!learn(&plan, 4).enforce);
}

/// Two patterns for one link are two claims of one item: the more permissive wins, and the first one's gateway source.
#[test]
fn globs_that_match_one_link_are_joined() {
    use PolicyProtocol::{TCP, UDP};
    let owner = |name: &str| vec![ObjectRef { kind: "ReturnPath".to_owned(), name: name.to_owned() }];
    let one = ReturnPathInterface {
        enforce: false,
        drop_on_path_down: true,
        virtual_ips: vec![net("198.51.100.10/32")],
        except_sources: vec![net("203.0.113.0/24")],
        except_ports: vec![(1, 100)],
        ..asked("v*")
    };
    let two = ReturnPathInterface {
        protocols: BTreeSet::from([UDP]),
        virtual_ips: vec![net("198.51.100.20/32")],
        except_sources: vec![net("203.0.113.7/32"), net("192.0.2.0/24")],
        except_ports: vec![(50, 200)],
        owners: owner("other"),
        ..asked("vr*")
    };
    let node = |two: ReturnPathInterface| Node::new(vec![one.clone(), two]).plan();
    let plan = node(two.clone());
    assert!(plan.conditions.is_empty(), "{:?}", plan.conditions);
    let joined = learn(&plan, 3);
    assert!(joined.enforce && !joined.drop_on_path_down);
    assert_eq!(joined.protocols, BTreeSet::from([TCP, UDP]));
    assert_eq!(joined.virtual_ips, BTreeSet::from([net("198.51.100.10/32"), net("198.51.100.20/32")]));
    assert_eq!(joined.except_sources, BTreeSet::from([net("203.0.113.7/32")]));
    assert_eq!(joined.except_ports, BTreeSet::from([(50, 100)]));
    let alone = learn(&plan, 4);
    assert!(!alone.enforce && alone.protocols == BTreeSet::from([TCP]), "only `v*` matches vblue");
    // Whatever the order: any service address wins over some.
    let any = node(ReturnPathInterface { virtual_ips: Vec::new(), ..two.clone() });
    assert!(learn(&any, 3).virtual_ips.is_empty());
    let other = node(ReturnPathInterface { gateway: GatewaySource::FromRoute, ..two });
    let [condition] = &other.conditions[..] else { panic!("{:?}", other.conditions) };
    assert_eq!((condition.reason, &condition.owners), (reason::GATEWAY_MISMATCH, &owner("other")));
    assert!(matches!(learn(&other, 3).default_ipv4.kind, PathKind::Auto(_)), "the first one's");
}

#[test]
fn absent_interfaces_are_named_and_cost_nothing_else() {
    let plan = Node::new(vec![asked("bond0.7"), asked("eth*"), asked("vred")]).plan();
    let items: Vec<_> =
        plan.conditions.iter().map(|condition| (condition.item.as_str(), condition.reason)).collect();
    assert_eq!(
        items,
        [
            ("interfaces[bond0.7]", reason::INTERFACE_NOT_FOUND),
            ("interfaces[eth*]", reason::INTERFACE_NOT_FOUND),
        ]
    );
    assert!(plan.interfaces.contains_key(&3));
}

/// What is steered to it would come by the program of the one below, which takes it for its own, and sends it up again.
#[test]
fn a_device_with_the_mac_of_the_one_below_is_refused_and_that_one_named() {
    let mut node = Node::new(vec![asked("ipv0")]);
    let below = node.link("vred").mac;
    node.links.push(Link { kind: "ipvlan".to_owned(), lower: Some(3), mac: below, ..link(7, "ipv0") });
    node.carrying.insert(7);
    let plan = node.plan();
    assert!(plan.interfaces.is_empty());
    assert_eq!(plan.conditions[0].reason, reason::UNSUPPORTED);
    assert!(plan.conditions[0].message.ends_with("list vred"), "{}", plan.conditions[0].message);
    node.intent.return_paths = vec![asked("vred")];
    assert!(node.plan().interfaces[&7].learn.is_none(), "replies may leave by it wrongly");
    node.intent.return_paths = vec![asked("ipv0")];
    node.link("ipv0").mac = Some([2, 0, 0, 0, 1, 99]);
    assert!(node.plan().interfaces[&7].learn.is_some(), "a macvlan has a MAC of its own");
    node.link("ipv0").mac = below;
    node.link("ipv0").lower = None;
    assert!(node.plan().interfaces[&7].learn.is_some(), "the one below is in another namespace");
}

#[test]
fn members_of_bonds_vrf_devices_and_loopback_are_refused() {
    let mut node = Node::new(vec![asked("vred"), asked("lo"), asked("red"), asked("vblue")]);
    let (mut bond, mut vrf) = (link(5, "bond0"), link(6, "red"));
    bond.kind = "bond".to_owned();
    vrf.kind = "vrf".to_owned();
    vrf.vrf_table = Some(10001);
    node.links.extend([bond, vrf]);
    node.link("vred").master = Some(5);
    node.link("vblue").master = Some(6);
    let plan = node.plan();
    assert_eq!(plan.conditions.len(), 3, "{:?}", plan.conditions);
    assert!(plan.conditions[0].message.contains("list bond0"), "{:?}", plan.conditions);
    assert!(plan.interfaces[&4].learn.is_some(), "a member of a VRF terminates its frames");
    assert_eq!(plan.interfaces[&4].zone, 10001);
}

#[test]
fn a_table_only_interface_looks_up_its_table_in_the_zone_of_all() {
    let mut node = Node::new(vec![asked("vred")]);
    node.tables.insert(3, 10001);
    let plan = node.plan();
    assert_eq!((plan.interfaces[&3].zone, plan.interfaces[&3].table), (0, 10001));
    let default = learn(&plan, 3).default_ipv4;
    assert_eq!((plan.paths[&default].zone, plan.paths[&default].table), (0, 10001));
}

#[test]
fn automatic_paths_depend_on_the_candidates() {
    let default = |node: Node| learn(&node.plan(), 3).default_ipv4.kind;
    let node = Node::new(vec![asked("vred")]);
    assert_eq!(default(node.clone()), PathKind::Auto(None));
    let one = node.gateway(3, "10.0.3.1");
    assert_eq!(default(one.clone()), PathKind::Auto(Some(ip("10.0.3.1"))));
    assert_eq!(default(one.gateway(3, "10.0.3.9")), PathKind::Route, "no guessing among several");
}

#[test]
fn candidates_are_matched_by_mac_and_kept_resolved() {
    let node = Node::new(vec![asked("vred")])
        .gateway(3, "10.0.3.1")
        .gateway(3, "10.0.3.9")
        .gateway(2, "10.0.2.1")
        .neighbour(3, "10.0.3.1", Some(ROUTER_MAC), NeighbourState::Valid);
    let plan = node.plan();
    let mac = MacKey { ifindex: 3, family: Family::Ipv4, mac: ROUTER_MAC };
    assert_eq!(plan.macs, BTreeMap::from([(mac, key(3, Family::Ipv4, PathKind::Gateway(ip("10.0.3.1"))))]));
    assert_eq!(plan.managed_neighbours, BTreeSet::from([(3, ip("10.0.3.1")), (3, ip("10.0.3.9"))]));
}

#[test]
fn one_router_with_two_addresses_is_one_way() {
    let node = Node::new(vec![asked("vred")])
        .gateway(3, "10.0.3.9")
        .gateway(3, "10.0.3.1")
        .neighbour(3, "10.0.3.9", Some(ROUTER_MAC), NeighbourState::Valid)
        .neighbour(3, "10.0.3.1", Some(ROUTER_MAC), NeighbourState::Valid);
    let paths: Vec<_> = node.plan().macs.into_values().map(|path| path.kind).collect();
    assert_eq!(paths, [PathKind::Gateway(ip("10.0.3.1"))]);
}

#[test]
fn a_failed_gateway_and_a_dead_interface_take_paths_down() {
    let mut node = Node::new(vec![asked("vred")]).gateway(3, "10.0.3.1").neighbour(
        3,
        "10.0.3.1",
        None,
        NeighbourState::Failed,
    );
    let gateway = key(3, Family::Ipv4, PathKind::Gateway(ip("10.0.3.1")));
    let plan = node.plan();
    assert!(!plan.paths[&gateway].up);
    assert!(!plan.paths[&learn(&plan, 3).default_ipv4].up, "requests of unknown MACs go back to it, too");
    assert!(plan.paths[&learn(&plan, 3).default_ipv6].up);
    node.link("vred").carrier = false;
    assert!(node.plan().paths.values().all(|path| !path.up));
}

#[test]
fn prescribed_gateways() {
    let source = GatewaySource::Static { ipv4: Some("10.0.3.7".parse().expect("an address")), ipv6: None };
    let node = Node::new(vec![ReturnPathInterface { gateway: source, ..asked("vred") }])
        .gateway(3, "10.0.3.1")
        .neighbour(3, "10.0.3.7", Some(ROUTER_MAC), NeighbourState::Valid);
    let plan = node.plan();
    assert_eq!(learn(&plan, 3).default_ipv4.kind, PathKind::Gateway(ip("10.0.3.7")));
    assert_eq!(learn(&plan, 3).default_ipv6.kind, PathKind::Auto(None), "the other family stays on Auto");
    assert_eq!(plan.macs, BTreeMap::new());
    assert_eq!(plan.managed_neighbours, BTreeSet::from([(3, ip("10.0.3.7"))]));
}

#[test]
fn from_route_and_from_source_mac_look_at_no_candidate() {
    for (source, kind) in
        [(GatewaySource::FromRoute, PathKind::Route), (GatewaySource::FromSourceMAC, PathKind::SourceMac)]
    {
        let node = Node::new(vec![ReturnPathInterface { gateway: source, ..asked("vred") }])
            .gateway(3, "10.0.3.1")
            .neighbour(3, "10.0.3.1", Some(ROUTER_MAC), NeighbourState::Valid);
        let plan = node.plan();
        assert_eq!((learn(&plan, 3).default_ipv4.kind, learn(&plan, 3).default_ipv6.kind), (kind, kind));
        assert_eq!((plan.macs.len(), plan.managed_neighbours.len(), plan.paths.len()), (0, 0, 2));
    }
}

#[test]
fn service_addresses_are_led_to_the_sink() {
    let listed = ReturnPathInterface {
        virtual_ips: vec![net("198.51.100.10/32"), net("2001:db8::/64")],
        ..asked("vred")
    };
    let mut node = Node::new(vec![listed]);
    let plan = node.plan();
    assert!(plan.sink);
    assert_eq!((plan.rules.len(), plan.routes.len()), (0, 0), "not before the device is there");
    node = node.with_sink();
    node.intent.vrfs.push(vrf(10999));
    let plan = node.plan();
    let rules: Vec<_> = plan.rules.iter().map(|rule| (rule.source, rule.priority, rule.action)).collect();
    assert_eq!(
        rules,
        [
            (Some(net("198.51.100.10/32")), 1189, RuleAction::Lookup(10998)),
            (Some(net("2001:db8::/64")), 1189, RuleAction::Lookup(10998)),
        ]
    );
    let routes: Vec<_> =
        plan.routes.iter().map(|route| (route.key.table, route.key.prefix, route.key.metric)).collect();
    assert_eq!(routes, [(10998, net("0.0.0.0/0"), 0), (10998, net("::/0"), 1024)]);
    assert!(matches!(&plan.routes[0].target, RouteTarget::Inline(hops) if hops[0].0.ifindex == 9));
    assert!(plan.interfaces[&9].sink);
}

#[test]
fn what_is_led_to_the_sink_fits_every_way_out() {
    let listed = ReturnPathInterface {
        virtual_ips: vec![net("198.51.100.10/32"), net("2001:db8::/64")],
        ..asked("vred")
    };
    let mut node = Node::new(vec![listed]).with_sink();
    let mtus = |node: &Node| node.plan().routes.iter().map(|route| route.mtu).collect::<Vec<_>>();
    assert_eq!(mtus(&node), [None, None], "the sink's own is right");
    node.link("vred").mtu = 1200;
    assert_eq!(mtus(&node), [Some(1200), Some(1280)]);
    node.link("vred").mtu = 9000;
    assert_eq!(mtus(&node), [None, None], "another way is no larger than the sink");
}

#[test]
fn a_node_without_default_route_gets_a_last_resort_for_the_families_it_speaks() {
    let mut node = Node::new(vec![asked("vred")]).with_sink();
    node.defaults.clear();
    let plan = node.plan();
    assert!(plan.sink);
    let routes: Vec<_> =
        plan.routes.iter().map(|route| (route.key.table, route.key.prefix, route.key.metric)).collect();
    assert_eq!(routes, [(254, net("0.0.0.0/0"), u32::MAX)], "the node has no IPv6 address");
    assert_eq!(plan.sysctls["net/ipv4/conf/vred/rp_filter"], "2", "the last resort is a route");
}

#[test]
fn reverse_path_filters_follow_the_default_route() {
    let mut node =
        Node::new(vec![asked("vred"), ReturnPathInterface { manage_rp_filter: false, ..asked("vblue") }]);
    assert_eq!(
        node.plan().sysctls,
        BTreeMap::from([("net/ipv4/conf/vred/rp_filter".to_owned(), "2".to_owned())])
    );
    node.defaults.clear();
    assert_eq!(node.plan().sysctls["net/ipv4/conf/vred/rp_filter"], "0");
}

#[test]
fn the_reverse_path_filter_of_a_vrf_member_follows_the_vrf() {
    let mut node = Node::new(vec![asked("vred")]);
    let mut red = link(6, "red");
    red.kind = "vrf".to_owned();
    red.vrf_table = Some(10001);
    node.links.push(red);
    node.link("vred").master = Some(6);
    assert_eq!(node.plan().sysctls["net/ipv4/conf/vred/rp_filter"], "0");
    node.defaults.insert((10001, Family::Ipv4));
    assert_eq!(node.plan().sysctls["net/ipv4/conf/vred/rp_filter"], "2");
}

#[test]
fn shadow_changes_nothing_in_the_kernel() {
    let shadow =
        ReturnPathInterface { enforce: false, virtual_ips: vec![net("198.51.100.10/32")], ..asked("vred") };
    let mut node = Node::new(vec![shadow]).with_sink().gateway(3, "10.0.3.1");
    node.defaults.clear();
    let plan = node.plan();
    assert!(!plan.sink);
    assert_eq!(
        (plan.rules.len(), plan.routes.len(), plan.sysctls.len(), plan.managed_neighbours.len()),
        (0, 0, 0, 0)
    );
    assert!(plan.paths.values().all(|path| !path.enforce));
    assert_eq!(plan.interfaces[&3].learn.as_ref().map(|learn| learn.enforce), Some(false));
}

#[test]
fn known_networks_are_never_learned() {
    let mut node = Node::new(vec![asked("vred")]);
    node.intent.config.protected_prefixes = vec![net("192.0.2.77/24")];
    node.cluster.insert(net("10.244.0.0/16"));
    let never = node.plan().never;
    for prefix in ["192.0.2.0/24", "10.244.0.0/16", "10.0.3.2/32"] {
        assert!(never.contains(&net(prefix)), "{prefix} in {never:?}");
    }
    node.intent.config.auto_protect.clear();
    assert!(!node.plan().never.contains(&net("10.0.3.2/32")));
}

#[test]
fn uplinks_come_first_when_there_are_too_many() {
    let mut node = Node::new(vec![asked("vred")]).gateway(900, "10.9.0.1");
    for ifindex in 600..=900 {
        let mut pod = link(5, &format!("pod{ifindex}"));
        pod.ifindex = ifindex;
        node.links.push(pod);
        node.carrying.insert(ifindex);
    }
    let plan = node.plan();
    assert_eq!(plan.interfaces.len(), MAX_INTERFACES);
    assert!(plan.interfaces[&900].uplink);
    assert_eq!(plan.conditions.len(), 1);
    assert_eq!(plan.conditions[0].reason, reason::UNSUPPORTED);
}

#[test]
fn the_flow_table_is_capped_by_the_guardrail() {
    let mut node = Node::new(vec![asked("vred")]);
    node.intent.steering.max_entries = 5_000_000;
    assert_eq!(node.plan().flows.max_entries, node.intent.config.max_flow_entries);
}

fn vrf(table: u32) -> Vrf {
    Vrf {
        name: "red".to_owned(),
        table,
        mode: VrfMode::TableOnly,
        strict: true,
        interfaces: Vec::new(),
        gateways: Vec::new(),
        exceptions: Vec::new(),
        auto_exceptions: true,
        rp_filter: crate::intent::types::RpFilter::Auto,
        owners: Vec::new(),
    }
}

fn nodes() -> impl Strategy<Value = Node> {
    let source = prop_oneof![
        Just(GatewaySource::Auto),
        Just(GatewaySource::FromRoute),
        Just(GatewaySource::FromSourceMAC),
        Just(GatewaySource::Static { ipv4: Some(std::net::Ipv4Addr::new(10, 0, 3, 1)), ipv6: None }),
    ];
    let state = prop_oneof![
        Just(NeighbourState::Valid),
        Just(NeighbourState::Failed),
        Just(NeighbourState::Incomplete)
    ];
    let entries = prop::collection::vec((2u32..5, 1u8..4, 1u8..4, state), 0..8);
    let names =
        prop::collection::vec(prop_oneof![Just("vred"), Just("v*"), Just("vblue"), Just("eth0")], 0..3);
    (names, source, entries, any::<bool>(), any::<bool>(), prop::collection::btree_set(1u32..5, 0..4))
        .prop_map(|(names, gateway, entries, enforce, defaults, carrying)| {
            let mut node = Node::new(
                names
                    .into_iter()
                    .map(|name| ReturnPathInterface { gateway, enforce, ..asked(name) })
                    .collect(),
            );
            node = node.with_sink();
            node.carrying = carrying;
            if !defaults {
                node.defaults.clear();
            }
            for (ifindex, host, mac, state) in entries {
                let address = format!("10.0.{ifindex}.{host}");
                node = node.gateway(ifindex, &address);
                node = node.neighbour(ifindex, &address, Some([2, 0, 0, 0, 0, mac]), state);
            }
            node
        })
}

proptest! {
    /// Whatever a map names exists: default paths and MACs lead to paths, paths belong to listed interfaces.
    #[test]
    fn plans_are_closed(node in nodes()) {
        let plan = node.plan();
        for interface in plan.interfaces.values() {
            for path in interface.learn.iter().flat_map(|learn| [learn.default_ipv4, learn.default_ipv6]) {
                prop_assert!(plan.paths.contains_key(&path), "{path:?}");
            }
        }
        for (mac, path) in &plan.macs {
            prop_assert!(plan.paths.contains_key(path));
            prop_assert_eq!((mac.ifindex, mac.family), (path.ifindex, path.family));
        }
        for path in plan.paths.keys() {
            prop_assert!(plan.interfaces[&path.ifindex].learn.is_some());
        }
        prop_assert_eq!(node.plan(), plan);
    }
}
