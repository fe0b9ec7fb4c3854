//! Rules, links, addresses, neighbours, sysctls.

use std::time::Duration;

use backtrail::kernel::KernelError;
use backtrail::kernel::actions::{ALIAS, Actions};
use backtrail::kernel::observe;
use backtrail::kernel::sysctl::Sysctls;
use backtrail::model::{Address, Family, Link, Neighbour, NeighbourState, Rule, RuleAction};

use crate::{Links, OURS, address, in_namespace, in_namespace_async, index, ip, until};

fn rule(family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule::all(family, priority, action, OURS)
}

async fn our_rules() -> Vec<Rule> {
    let mut rules = observe::rules().await.expect("dump");
    rules.retain(|rule| rule.protocol == OURS);
    rules
}

async fn link(name: &str) -> Option<Link> {
    observe::links().await.expect("dump").into_iter().find(|link| link.name == name)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn rules_of_all_shapes_come_and_go() {
    in_namespace_async(|_| async move {
        let actions = Actions::open(OURS).expect("connect");
        let name = |name: &str| Some(name.to_owned());
        let v4 = |priority, action| rule(Family::Ipv4, priority, action);
        let v6 = |priority, action| rule(Family::Ipv6, priority, action);
        let net = |text: &str| Some(text.parse().expect("a prefix"));
        let rules = [
            Rule { iif: name("lo"), ..v4(1100, RuleAction::Goto(1120)) },
            Rule { destination: net("192.0.2.0/24"), ..v4(1101, RuleAction::Lookup(10_000)) },
            Rule {
                source: net("10.0.0.0/8"),
                iif: name("not-there.100"),
                ..v4(1102, RuleAction::Lookup(77))
            },
            Rule { oif: name("eth0"), ..v4(1103, RuleAction::Lookup(10_001)) },
            Rule {
                ip_protocol: Some(6),
                destination_ports: Some((443, 443)),
                ..v4(1104, RuleAction::Lookup(254))
            },
            Rule {
                ip_protocol: Some(17),
                destination_ports: Some((5000, 5010)),
                ..v4(1105, RuleAction::Unreachable)
            },
            v4(1120, RuleAction::Nop),
            Rule { destination: net("2001:db8::/32"), ..v6(1101, RuleAction::Lookup(10_000)) },
            Rule { iif: name("v0"), source: net("fd00::/8"), ..v6(1102, RuleAction::Unreachable) },
            Rule { ip_protocol: Some(58), ..v6(1103, RuleAction::Goto(1104)) },
            v6(1104, RuleAction::Nop),
        ];
        for rule in &rules {
            actions.add_rule(rule).await.expect("add");
        }
        assert_eq!(our_rules().await, rules);
        assert!(ip("rule show").contains("1101:\tfrom all to 192.0.2.0/24 lookup 10000 proto 201"));
        for rule in &rules {
            let twice = actions.add_rule(rule).await.expect_err("it is there");
            assert!(twice.is_present(), "{rule}: {twice}");
        }
        for rule in &rules {
            delete(&actions, rule).await.expect("delete");
        }
        assert_eq!(our_rules().await, []);
        let gone = delete(&actions, &rules[0]).await.expect_err("it is gone");
        assert!(gone.is_absent(), "{gone}");
    });
}

async fn delete(actions: &Actions, rule: &Rule) -> Result<(), KernelError> {
    let mut present = observe::rules().await.expect("dump");
    let deleted = actions.del_rule(rule, &mut present).await;
    assert_eq!(present, observe::rules().await.expect("dump"), "what is known is what is there");
    deleted
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_delete_hits_no_other_rule() {
    in_namespace_async(|_| async move {
        let actions = Actions::open(OURS).expect("connect");
        ip("rule add pref 1100 lookup 10000");
        ip("rule add pref 1101 fwmark 7 lookup 10000 proto 201");
        ip("rule add pref 1102 not from 10.0.0.0/8 lookup 10000 proto 201");
        let all = |priority| rule(Family::Ipv4, priority, RuleAction::Lookup(10_000));
        let foreign = delete(&actions, &all(1100)).await.expect_err("not ours");
        assert!(foreign.is_absent(), "{foreign}");
        let before = observe::rules().await.expect("dump");
        for priority in [1101, 1102] {
            let seen = before.iter().find(|rule| rule.priority == priority).expect("seen");
            assert_eq!(seen.action, RuleAction::Other(1), "selectors that we do not know");
            let shadowed = delete(&actions, &all(priority)).await.expect_err("another rule");
            assert!(matches!(shadowed, KernelError::RuleShadowed { .. }), "{shadowed}");
        }
        let narrow = Rule { iif: Some("v0".to_owned()), ..all(1103) };
        actions.add_rule(&narrow).await.expect("add");
        actions.add_rule(&all(1103)).await.expect("add");
        delete(&actions, &all(1103)).await.expect_err("the kernel would take the narrow one");
        delete(&actions, &narrow).await.expect("delete");
        delete(&actions, &all(1103)).await.expect("delete");
        assert_eq!(observe::rules().await.expect("dump"), before);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn links_come_with_their_addresses() {
    in_namespace_async(|Links { v0, v1 }| async move {
        let actions = Actions::open(OURS).expect("connect");
        let new = Address {
            net: "10.6.0.1/24".parse().expect("a prefix"),
            peer: None,
            no_prefix_route: true,
            tentative: false,
            metric: 0,
        };
        let far = Address {
            net: "10.6.1.1/32".parse().expect("a prefix"),
            peer: Some(address("10.6.1.2")),
            no_prefix_route: false,
            metric: 77,
            ..new
        };
        let v6 = Address { net: "2001:db8::1/64".parse().expect("a prefix"), ..new };
        for address in [&new, &far, &v6] {
            actions.add_address(v1, address).await.expect("add");
        }
        let twice = actions.add_address(v1, &new).await.expect_err("it is there");
        assert!(twice.is_present(), "{twice}");
        let seen = link("v1").await.expect("v1");
        assert_eq!((seen.ifindex, seen.kind.as_str(), seen.usable()), (v1, "veth", true));
        assert!(seen.addresses.contains(&new) && seen.addresses.contains(&far), "{:?}", seen.addresses);
        let settled = seen.addresses.iter().find(|address| address.net == v6.net).expect("the IPv6 address");
        assert!(settled.no_prefix_route);
        assert!(ip("route show table main").contains("10.6.1.2 dev v1"));
        assert!(ip("route show table main").contains("metric 77"));
        for address in [&new, &far, &v6] {
            actions.del_address(v1, address).await.expect("delete");
        }
        let left = link("v1").await.expect("v1").addresses;
        assert!(![new.net, far.net, v6.net].iter().any(|net| left.iter().any(|address| address.net == *net)));
        let gone = actions.del_address(v1, &new).await.expect_err("it is gone");
        assert!(gone.is_absent(), "{gone}");
        assert_eq!(link("v0").await.expect("v0").ifindex, v0);
        assert_eq!(link("lo").await.expect("lo").arphrd, 772);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_sink_is_up_marked_and_without_arp() {
    in_namespace_async(|_| async move {
        let actions = Actions::open(OURS).expect("connect");
        let ifindex = actions.create_sink("backtrail0").await.expect("create");
        let sink = link("backtrail0").await.expect("the sink");
        assert_eq!((sink.ifindex, sink.noarp, sink.up), (ifindex, true, true));
        assert_eq!(sink.alias.as_deref(), Some(ALIAS));
        assert_eq!(sink.arphrd, 1);
        ip("route add default dev backtrail0 metric 4294967295");
        let twice = actions.create_sink("backtrail0").await.expect_err("it is there");
        assert!(twice.is_present() && twice.to_string().contains("backtrail0"), "{twice}");
        actions.delete_link(ifindex).await.expect("delete");
        assert_eq!(link("backtrail0").await, None);
        let gone = actions.delete_link(ifindex).await.expect_err("it is gone");
        assert!(gone.is_absent(), "{gone}");
    });
}

/// Without 8021q in the kernel, what is tested is the message for that.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_vlan_is_made_or_the_missing_module_named() {
    in_namespace_async(|Links { v0, .. }| async move {
        let actions = Actions::open(OURS).expect("connect");
        match actions.create_vlan("v0.100", v0, 100, Some(1400)).await {
            Ok(ifindex) => {
                actions.set_up(ifindex).await.expect("up");
                let vlan = link("v0.100").await.expect("the device");
                assert_eq!((vlan.ifindex, vlan.vlan, vlan.lower), (ifindex, Some(100), Some(v0)));
                assert_eq!((vlan.mtu, vlan.up, vlan.kind.as_str()), (1400, true, "vlan"));
                assert_eq!(vlan.alias.as_deref(), Some(ALIAS));
            }
            Err(error) => {
                println!("the kernel lacks 8021q: tested the error instead");
                let text = error.to_string();
                assert!(
                    text.starts_with("create vlan v0.100: ") && text.contains("module is not loaded"),
                    "{text}"
                );
                assert_eq!(link("v0.100").await, None);
            }
        }
        // A device with a lower one that every kernel here has.
        ip("link add link v0 name m0 type macvlan");
        ip("link set m0 up");
        let upper = link("m0").await.expect("m0");
        assert_eq!((upper.lower, upper.kind.as_str(), upper.ifindex), (Some(v0), "macvlan", index("m0")));
        ip("link del m0");
        ip("link add br0 type bridge");
        ip("link set v0 master br0");
        assert_eq!(link("v0").await.expect("v0").master, Some(index("br0")));
    });
}

async fn neighbour(ifindex: u32, text: &str) -> Option<Neighbour> {
    let all = observe::neighbours().await.expect("dump");
    all.into_iter().find(|neighbour| neighbour.ifindex == ifindex && neighbour.address == address(text))
}

/// The entry, once it is no longer being resolved.
async fn settled(ifindex: u32, text: &str) -> Neighbour {
    let wait = async {
        loop {
            let seen = neighbour(ifindex, text).await.expect("an entry");
            if seen.state != NeighbourState::Incomplete {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("resolution to end within 30 s")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn managed_neighbours_are_kept_resolved() {
    in_namespace_async(|Links { v0, .. }| async move {
        let state = tempfile::tempdir().expect("a directory");
        let mut sysctls = Sysctls::open(state.path()).expect("sysctls");
        // v1 is in the same namespace: let it answer a local address.
        sysctls.set("net/ipv4/conf/v1/accept_local", "1").expect("set");
        let actions = Actions::open(OURS).expect("connect");
        let mac = link("v1").await.expect("v1").mac;
        for (text, state) in [("10.0.1.1", NeighbourState::Valid), ("10.0.0.99", NeighbourState::Failed)] {
            actions.manage_neighbour(v0, address(text), true).await.expect("manage");
            let settled = settled(v0, text).await;
            assert_eq!((settled.state, settled.managed, settled.protocol), (state, true, OURS), "{text}");
            assert_eq!(settled.mac, mac.filter(|_| state == NeighbourState::Valid));
        }
        actions.manage_neighbour(v0, address("10.0.1.1"), false).await.expect("leave");
        let left = neighbour(v0, "10.0.1.1").await.expect("an entry");
        assert_eq!((left.state, left.managed, left.mac), (NeighbourState::Valid, false, mac));
        actions.manage_neighbour(v0, address("fd00::99"), true).await.expect("manage");
        assert!(neighbour(v0, "fd00::99").await.expect("an entry").managed);
        let nowhere =
            actions.manage_neighbour(9999, address("10.0.0.9"), true).await.expect_err("no such link");
        assert_eq!(nowhere.errno(), Some(libc::ENODEV), "{nowhere}");
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn sysctls_of_the_namespace_are_set_and_restored() {
    in_namespace(|_| {
        let state = tempfile::tempdir().expect("a directory");
        let compat = "net.ipv4.nexthop_compat_mode";
        let rp_filter = "net/ipv4/conf/v0.7/rp_filter";
        ip("link add v0.7 type veth peer name v1.7");
        let mut sysctls = Sysctls::open(state.path()).expect("open");
        let before = (sysctls.get(compat).expect("get"), sysctls.get(rp_filter).expect("get"));
        sysctls.set(compat, "0").expect("set");
        sysctls.set(rp_filter, "2").expect("set");
        assert_eq!(
            (sysctls.get(compat).expect("get").as_str(), sysctls.get(rp_filter).expect("get").as_str()),
            ("0", "2")
        );
        let mut later = Sysctls::open(state.path()).expect("open");
        later.restore_all().expect("restore");
        assert_eq!((later.get(compat).expect("get"), later.get(rp_filter).expect("get")), before);
        sysctls.set(rp_filter, "2").expect("set");
        ip("link del v0.7");
        until("v0.7's end", || sysctls.get(rp_filter).is_err().then_some(()));
        let missing = sysctls.set(rp_filter, "1").expect_err("no such interface");
        assert!(missing.is_absent(), "{missing}");
        sysctls.restore_all().expect("what is gone needs no restoring");
    });
}
