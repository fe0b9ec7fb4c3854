//! Numbers that are kept, and the bytes of the maps.

use proptest::prelude::*;

use super::*;
use crate::plan::steering::MacKey as PlannedMac;

fn key(ifindex: u32, kind: PathKind) -> PathKey {
    PathKey { ifindex, family: Family::Ipv4, kind }
}

fn planned_path() -> crate::plan::steering::Path {
    crate::plan::steering::Path {
        up: true,
        drop_when_down: false,
        enforce: true,
        zone: 0,
        table: 254,
        mtu: 1500,
        ethernet: true,
        mac: Some([2; 6]),
    }
}

/// A plan with these listed interfaces, each with one path of this kind.
fn plan(ifindexes: &[u32], kind: PathKind) -> SteeringPlan {
    let mut plan = SteeringPlan::default();
    for ifindex in ifindexes {
        let default = key(*ifindex, kind);
        let learn = Learn {
            enforce: true,
            drop_on_path_down: false,
            protocols: BTreeSet::from([PolicyProtocol::TCP, PolicyProtocol::ICMP]),
            virtual_ips: BTreeSet::new(),
            except_sources: BTreeSet::new(),
            except_ports: BTreeSet::new(),
            default_ipv4: default,
            default_ipv6: PathKey { family: Family::Ipv6, ..default },
        };
        let interface = SteeredInterface {
            name: format!("eth{ifindex}"),
            zone: 0,
            table: 254,
            mac: Some([2; 6]),
            ethernet: true,
            tagged: false,
            uplink: true,
            sink: false,
            learn: Some(learn),
        };
        plan.interfaces.insert(*ifindex, interface);
        plan.paths.insert(default, planned_path());
        plan.paths.insert(PathKey { family: Family::Ipv6, ..default }, planned_path());
    }
    plan
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// Lays out as the edge does: what was laid out is what the map holds then.
fn lay_out(numbers: &mut Numbers, paths: &mut BTreeMap<u32, Path>, plan: &SteeringPlan) -> Layout {
    let layout = numbers.lay_out(plan, paths);
    paths.clone_from(&layout.paths);
    layout
}

#[test]
fn the_same_plan_is_the_same_layout() {
    let (mut numbers, mut paths) = (Numbers::default(), BTreeMap::new());
    let plan = plan(&[3, 7], PathKind::Auto(None));
    let first = lay_out(&mut numbers, &mut paths, &plan);
    assert_eq!(first.new_slots, BTreeSet::from([1, 2]));
    let second = lay_out(&mut numbers, &mut paths, &plan);
    assert_eq!(second, Layout { new_slots: BTreeSet::new(), ..first });
}

#[test]
fn numbers_survive_a_restart() {
    let (mut numbers, mut paths) = (Numbers::default(), BTreeMap::new());
    let two = plan(&[3, 7], PathKind::Auto(None));
    lay_out(&mut numbers, &mut paths, &two);
    // The first interface goes: ids do not move up.
    let one = plan(&[7], PathKind::Auto(Some(ip("10.0.7.1"))));
    let before = lay_out(&mut numbers, &mut paths, &one);
    let mut adopted = Numbers::adopt(&before.ifaces, &before.paths);
    let after = lay_out(&mut adopted, &mut paths, &one);
    assert_eq!((after.ifaces, after.paths), (before.ifaces, before.paths));
    assert!(after.new_slots.is_empty());
}

#[test]
fn a_retired_id_is_kept_until_it_is_freed() {
    let (mut numbers, mut paths) = (Numbers::default(), BTreeMap::new());
    let old = plan(&[3], PathKind::Gateway(ip("10.0.3.1")));
    let before: BTreeSet<u32> = lay_out(&mut numbers, &mut paths, &old).paths.into_keys().collect();
    let new = plan(&[3], PathKind::SourceMac);
    let layout = lay_out(&mut numbers, &mut paths, &new);
    assert_eq!(layout.paths.len(), 4, "two old, two new");
    assert!(layout.paths.values().all(|path| path.state == maps::PATH_UP), "old flows go on");
    assert_eq!(numbers.retired().collect::<BTreeSet<_>>(), before);
    // Asked for again, it has its id again.
    let again = lay_out(&mut numbers, &mut paths, &old);
    assert!(
        again.ifaces.values().all(|iface| before.contains(&iface.path4) && before.contains(&iface.path6))
    );
    let retired: Vec<u32> = numbers.retired().collect();
    for id in retired {
        numbers.free(id);
    }
    assert_eq!(lay_out(&mut numbers, &mut paths, &old).paths.len(), 2);
}

#[test]
fn retired_paths_follow_the_state_of_interface_and_gateway() {
    let (mut numbers, mut paths) = (Numbers::default(), BTreeMap::new());
    lay_out(&mut numbers, &mut paths, &plan(&[3], PathKind::Gateway(ip("10.0.3.1"))));
    let mut new = plan(&[3], PathKind::SourceMac);
    new.failed.insert((3, ip("10.0.3.1")));
    let layout = lay_out(&mut numbers, &mut paths, &new);
    let old = |layout: &Layout| -> Vec<u32> {
        let old = layout.paths.values().filter(|path| path.kind == maps::PATH_GATEWAY);
        old.map(|path| path.state).collect()
    };
    assert_eq!(old(&layout), [maps::PATH_DOWN, maps::PATH_DOWN]);
    new.failed.clear();
    assert_eq!(old(&lay_out(&mut numbers, &mut paths, &new)), [maps::PATH_UP, maps::PATH_UP]);
    let gone = lay_out(&mut numbers, &mut paths, &SteeringPlan::default());
    assert!(gone.paths.values().all(|path| path.state == maps::PATH_DOWN && path.flags == 0));
    assert!(gone.ifaces.is_empty());
}

#[test]
fn flags_say_what_was_asked() {
    let mut asked = plan(&[3], PathKind::Route);
    let path = asked.paths.get_mut(&key(3, PathKind::Route)).expect("planned");
    path.enforce = false;
    path.drop_when_down = true;
    path.up = false;
    let learn = asked.interfaces.get_mut(&3).and_then(|on| on.learn.as_mut()).expect("listed");
    learn.virtual_ips.extend([net("198.51.100.0/24"), net("2001:db8::/64")]);
    learn.except_sources.insert(net("192.0.2.0/25"));
    learn.except_ports.insert((22, 22));
    asked.never.insert(net("10.244.0.0/16"));
    let layout = Numbers::default().lay_out(&asked, &BTreeMap::new());
    let iface = layout.ifaces.values().next().expect("one");
    assert_eq!(
        iface.flags,
        maps::IFACE_LEARN
            | maps::IFACE_HAS_VIPS
            | maps::IFACE_HAS_EXCEPT
            | maps::IFACE_TRANSIT
            | maps::IFACE_CHECK_MAC
    );
    assert_eq!(iface.protocols, maps::PROTO_TCP | maps::PROTO_ICMP);
    let path = layout.paths[&iface.path4];
    assert_eq!((path.flags, path.state), (maps::PATH_FLAG_SHADOW | maps::PATH_FLAG_DROP, maps::PATH_DOWN));
    assert_eq!((path.kind, path.family, path.slot), (maps::PATH_ROUTE, 4, iface.slot));
    let group = iface.slot;
    assert_eq!(layout.vips4, BTreeMap::from([((56, Prefix4 { group, address: [198, 51, 100, 0] }), 1)]));
    assert_eq!(layout.vips6.keys().map(|(length, _)| *length).collect::<Vec<_>>(), [96]);
    assert_eq!(
        layout.never4,
        BTreeMap::from([
            ((48, Prefix4 { group: 0, address: [10, 244, 0, 0] }), maps::NEVER_PROTECTED),
            ((57, Prefix4 { group, address: [192, 0, 2, 0] }), maps::NEVER_EXCEPTED),
        ])
    );
    let port = PortPrefix { group, port: [0, 22], reserved: [0; 2] };
    assert_eq!(layout.ports, BTreeMap::from([((48, port), 1)]));
}

#[test]
fn macs_lead_to_their_paths() {
    let gateway = key(3, PathKind::Gateway(ip("fe80::1")));
    let mut asked = plan(&[3], PathKind::Auto(Some(ip("fe80::1"))));
    asked.paths.insert(gateway, planned_path());
    asked.macs.insert(PlannedMac { ifindex: 3, family: Family::Ipv4, mac: [9; 6] }, gateway);
    let layout = Numbers::default().lay_out(&asked, &BTreeMap::new());
    let id = layout.macs[&MacKey { ifindex: 3, mac: [9; 6], family: 4 }];
    assert_eq!(layout.paths[&id].gateway_family, 6, "IPv4 packets by an IPv6 gateway");
    assert_eq!(path_key(&layout.paths[&id]), Some(gateway));
}

#[test]
fn interfaces_without_room_are_named() {
    // All of them begin to probe at one position.
    let same: Vec<u32> = (0..=maps::IFACE_PROBES).map(|n| 5 + n * maps::IFACES).collect();
    let layout = Numbers::default().lay_out(&plan(&same, PathKind::Route), &BTreeMap::new());
    assert_eq!(layout.ifaces.len(), 4);
    assert_eq!(layout.full.len(), 1);
}

#[test]
fn idle_times_are_rounded_up() {
    let before = Globals { generation: 7, features: 0, tcp_idle: 0, udp_idle: 0, events: 3, secret: [9; 8] };
    let globals = globals(&SteeringPlan::default(), 1, &before);
    assert_eq!((globals.generation, globals.features), (7, 1));
    assert_eq!((globals.events, globals.secret), (3, [9; 8]), "not the plan's");
    assert!(u64::from(globals.udp_idle) << 30 >= 120_000_000_000);
    assert!(u64::from(globals.udp_idle) << 30 < 124_000_000_000);
}

proptest! {
    /// A port is covered exactly when it is in the range, and by one prefix only.
    #[test]
    fn ranges_of_ports_are_covered_exactly(a: u16, b: u16, probe: u16) {
        let (first, last) = (a.min(b), a.max(b));
        let prefixes = port_prefixes(first, last);
        let covers = |(start, length): &(u16, u32), port: u16| {
            let host = 16 - length;
            u32::from(*start) >> host == u32::from(port) >> host
        };
        for port in [probe, first, last, first.saturating_sub(1), last.saturating_add(1)] {
            let count = prefixes.iter().filter(|prefix| covers(prefix, port)).count();
            prop_assert_eq!(count, usize::from((first..=last).contains(&port)), "{} in {:?}", port, prefixes);
        }
        prop_assert!(prefixes.len() <= 30);
    }

    /// Ids and slots are given once, whatever comes and goes.
    #[test]
    fn numbers_are_unique(rounds in prop::collection::vec((prop::collection::btree_set(1u32..40, 0..8), 0u8..4), 1..8)) {
        let (mut numbers, mut paths) = (Numbers::default(), BTreeMap::new());
        for (ifindexes, kind) in rounds {
            let kind = match kind {
                0 => PathKind::Auto(None),
                1 => PathKind::Route,
                2 => PathKind::Gateway(ip("10.0.0.1")),
                _ => PathKind::SourceMac,
            };
            let ifindexes: Vec<u32> = ifindexes.into_iter().collect();
            let plan = plan(&ifindexes, kind);
            let layout = lay_out(&mut numbers, &mut paths, &plan);
            let slots: BTreeSet<u32> = layout.ifaces.values().map(|iface| iface.slot).collect();
            prop_assert_eq!(slots.len(), ifindexes.len());
            let keys: BTreeSet<_> = layout.paths.values().filter_map(path_key).collect();
            prop_assert_eq!(keys.len(), layout.paths.len(), "one id for each path");
            for iface in layout.ifaces.values() {
                prop_assert_eq!(layout.paths[&iface.path4].ifindex, iface.ifindex);
                prop_assert_eq!(layout.paths[&iface.path6].family, 6);
            }
            let adopted = Numbers::adopt(&layout.ifaces, &layout.paths);
            prop_assert_eq!(&adopted.ifaces, &numbers.ifaces);
        }
    }
}
