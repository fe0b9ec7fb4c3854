//! The engine against a kernel made of maps.

mod convergence;
mod devices;
mod failover;
mod fake;
mod feedback;
mod leftovers;
mod limits;
mod rules;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use zebra_fpm::netlink::Offload;
use zebra_fpm::{
    GroupMember, IfIndex, Nexthop, NexthopBody, NexthopGroup, NexthopId as FpmId, NexthopObject as FpmObject,
    Protocol, Route, RouteDel, RouteKey as FpmKey, RouteKind, TableId, Target, Update,
};

use self::fake::Kernel;
use super::tally::{Class, Tallies};
use super::{Engine, RouteView};
use crate::intent::types::*;
use crate::model::ops::Batch;
use crate::model::{Link, NeighbourState, NexthopObject, RouteTarget, Special};
use crate::plan::{Links, NodeFacts, Plan, PlanInput, ZebraTables};
use crate::status::reason;
use crate::status::rows::RouteState;

const PID: u32 = 77;

/// The engine, its kernel and a clock.
struct Bench {
    engine: Engine,
    kernel: Kernel,
    now: Instant,
    links: Links,
    intent: Intent,
    /// What zebra was told, in order.
    told: Vec<(Route, Offload)>,
    answering: bool,
}

fn link(ifindex: u32) -> Link {
    Link { kind: "veth".to_owned(), ..Link::ethernet(ifindex, format!("e{ifindex}")) }
}

fn import(from: u32, into: u32) -> Import {
    Import {
        owners: vec![ObjectRef { kind: "RouteImport".to_owned(), name: "test".to_owned() }],
        from_table: from,
        from_interfaces: BTreeSet::new(),
        protocols: BTreeSet::new(),
        allowed: Allowed::All,
        default_route: DefaultRoute::Reject,
        max_routes: 1_000_000,
        on_limit: OnLimit::RejectNew,
        into: crate::intent::types::Target { table: into, vrf: None },
        program: true,
        metric: 20,
        preferred_source: None,
        max_paths: 16,
        resilient: None,
        on_feed_loss: FeedLoss::Retain(Some(Duration::from_secs(120))),
    }
}

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

fn hop(id: u32, gateway: &str, ifindex: u32) -> Update {
    let gateway: IpAddr = gateway.parse().unwrap();
    let family = if gateway.is_ipv4() { zebra_fpm::Family::Ipv4 } else { zebra_fpm::Family::Ipv6 };
    let body = NexthopBody::Single(Nexthop::new(Some(gateway), Some(IfIndex(ifindex))));
    Update::Nexthop(FpmObject { id: FpmId(id), protocol: Protocol::ZEBRA, family, body })
}

fn group(id: u32, members: &[(u32, u32)]) -> Update {
    let members =
        members.iter().map(|(id, weight)| GroupMember { id: FpmId(*id), weight: *weight }).collect();
    let body = NexthopBody::Group(NexthopGroup { members, resilient: None });
    Update::Nexthop(FpmObject {
        id: FpmId(id),
        protocol: Protocol::ZEBRA,
        family: zebra_fpm::Family::Unspec,
        body,
    })
}

fn route(prefix: &str, id: u32) -> Update {
    Update::Route(Route::by_nexthop(FpmKey::new(TableId(5000), net(prefix)), Protocol::BGP, FpmId(id)))
}

fn withdraw(prefix: &str) -> Update {
    let key = FpmKey::new(TableId(5000), net(prefix));
    Update::RouteDel(RouteDel { key, protocol: Some(Protocol::BGP), metric: None })
}

impl Bench {
    fn new(imports: Vec<Import>) -> Self {
        let intent = Intent { imports, ..Intent::default() };
        let now = Instant::now();
        let mut bench = Self {
            engine: Engine::new(&intent.config, now, None),
            kernel: Kernel::default(),
            now,
            links: [2, 3].map(|ifindex| (ifindex, link(ifindex))).into(),
            intent,
            told: Vec::new(),
            answering: false,
        };
        bench.replan();
        bench.connect(PID);
        bench.settle();
        bench
    }

    /// The agent dies; another one starts on the same kernel and knows which zebra it had synchronized with.
    fn restart(&mut self) {
        let synced = self.engine.feed().synced_pid();
        let tables = self.engine.zebra_tables().tables.clone();
        self.engine = Engine::new(&self.intent.config, self.now, synced);
        self.engine.remember_tables(&tables);
        self.engine.want_feedback(self.answering);
        self.replan();
        self.engine.want_audit();
        self.settle();
    }

    fn replan(&mut self) {
        let facts = NodeFacts::default();
        let input = PlanInput {
            intent: &self.intent,
            links: &self.links,
            zebra: self.engine.zebra_tables(),
            facts: &facts,
        };
        self.engine.set_plan(Plan::compile(input), self.now);
        let usable = self.links.values().filter(|l| l.usable()).map(|l| l.ifindex).collect();
        self.engine.set_usable_links(usable, self.now);
    }

    fn connect(&mut self, pid: u32) {
        self.engine.fpm_connected(self.now);
        self.engine.fpm_pid(pid);
    }

    fn replayed(&mut self) {
        self.engine.fpm_replay_complete(self.now);
        self.settle();
    }

    fn say(&mut self, updates: &[Update]) {
        self.engine.fpm_updates(updates, self.now);
        self.engine.fpm_taken(self.now);
        self.settle();
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.engine.tick(self.now);
        self.settle();
    }

    /// The kernel changes while batches are on their way; `hear` is what the engine hears of it before they are answered.
    fn overtaken(&mut self, change: impl FnOnce(&mut Kernel), hear: impl FnOnce(&mut Self)) {
        let batches: Vec<Batch> = std::iter::from_fn(|| self.engine.next_batch(self.now)).collect();
        change(&mut self.kernel);
        hear(self);
        batches.into_iter().for_each(|batch| self.apply(batch));
    }

    fn set_link(&mut self, ifindex: u32, up: bool) {
        self.kernel.set_link(ifindex, up);
        self.see_link(ifindex, up);
        self.settle();
    }

    /// Somebody else gives an object another content; a notification tells of it, or nobody.
    fn alter(&mut self, object: NexthopObject, heard: bool) {
        let Ok(written) = self.kernel.replace_nexthop(object) else { return };
        if heard {
            self.engine.nexthop_written(&written, self.now);
        }
        self.settle();
    }

    /// The engine is told of a link; nothing is written yet.
    fn see_link(&mut self, ifindex: u32, up: bool) {
        let link = self.links.get_mut(&ifindex).unwrap();
        (link.up, link.carrier) = (up, up);
        self.replan();
    }

    fn set_neighbour(&mut self, gateway: &str, ifindex: u32, silent: bool) {
        let state = if silent { NeighbourState::Failed } else { NeighbourState::Valid };
        self.engine.neighbour_changed(ifindex, gateway.parse().unwrap(), Some(state), self.now);
        self.settle();
    }

    /// Runs until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.engine.audit_wanted() {
                self.audit();
            }
            let batch = self.engine.next_batch(self.now);
            self.listen();
            let Some(batch) = batch else {
                if !self.engine.audit_wanted() {
                    self.check_counts();
                    return;
                }
                continue;
            };
            self.apply(batch);
            self.listen();
        }
        panic!("does not converge");
    }

    fn apply(&mut self, batch: Batch) {
        let done = self.kernel.apply(batch);
        self.engine.batch_done(&done, self.now);
    }

    /// What is counted as it changes is what a count of everything comes to.
    fn check_counts(&self) {
        let (engine, counts) = (&self.engine, self.engine.counts());
        let (mut accepted, mut rejected) = (0, BTreeMap::new());
        let mut imports = vec![(0, 0); engine.plan().imports.len()];
        for (slot, table, _, _) in engine.rib().iter() {
            match engine.verdict(slot, table) {
                None => accepted += 1,
                Some(why) => *rejected.entry(why).or_insert(0) += 1,
            }
            for (index, import) in engine.plan().imports_from(table) {
                let taken = import.blocked.is_none() && engine.rejection(import, index, slot).is_none();
                let import = &mut imports[usize::from(index)];
                *import = (import.0 + 1, import.1 + u64::from(taken));
            }
        }
        let mut tallies = Tallies::default();
        for (_, target, _, entry) in engine.rib().entries() {
            Class::of(target, entry).into_iter().for_each(|class| tallies.add(class));
        }
        assert_eq!(tallies, engine.tallies);
        let counted: Vec<(u64, u64)> = counts.imports.iter().map(|it| (it.received, it.accepted)).collect();
        assert_eq!((counts.accepted, counts.rejected, counted), (accepted, rejected, imports));
    }

    /// Takes the answers for zebra: what it is told to forward must be in the kernel at that moment.
    fn listen(&mut self) {
        let (kernel, told) = (&self.kernel, &mut self.told);
        self.engine.drain_feedback(|route, outcome| {
            let prefix = route.key.dst;
            if route.key.table == TableId(5000) && outcome == Offload::Done {
                let ours = kernel.routes.values().any(|r| r.key.prefix == prefix && r.protocol == 201);
                assert!(ours, "{prefix} is not in the kernel");
            }
            told.push((route.clone(), outcome));
            true
        });
    }

    fn audit(&mut self) {
        self.audit_while(None, |_| ());
    }

    /// A comparison during which something happens: after the dump was taken, or after its nexthop objects were taken over.
    fn audit_while(&mut self, late: Option<bool>, event: impl FnOnce(&mut Self)) -> u64 {
        self.engine.hold_back();
        let (nexthops, routes) = self.kernel.dump();
        let (early, late) = match late {
            None => (None, None),
            Some(false) => (Some(event), None),
            Some(true) => (None, Some(event)),
        };
        early.into_iter().for_each(|event| event(self));
        let mut audit = self.engine.begin_audit(&nexthops, self.now);
        late.into_iter().for_each(|event| event(self));
        self.engine.audit_routes(&mut audit, &routes, self.now);
        self.engine.finish_audit(&mut audit, self.now);
        audit.differences
    }

    /// Prefix → gateways with weights, as a packet would find them.
    fn fib(&self, table: u32) -> BTreeMap<IpNet, Vec<(String, u16)>> {
        self.kernel.forwarding(table)
    }

    fn via(&self, prefix: &str) -> Vec<String> {
        self.fib(254)
            .get(&net(prefix))
            .map_or(Vec::new(), |hops| hops.iter().map(|(via, _)| via.clone()).collect())
    }

    /// What `routes` says of a prefix in main.
    fn rows(&self, prefix: &str) -> Vec<RouteView> {
        let list = self.engine.list_routes(|table, listed| table == 254 && *listed == net(prefix));
        self.engine.route_rows(&list, 0, 10).0
    }

    fn operations(&mut self, act: impl FnOnce(&mut Self)) -> usize {
        let before = self.kernel.operations;
        act(self);
        self.kernel.operations - before
    }
}

fn two_paths(bench: &mut Bench) {
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 3)])]);
    bench.say(&[route("100.64.1.0/24", 20), route("100.64.2.0/24", 20), route("100.64.3.0/24", 11)]);
    bench.replayed();
}

#[test]
fn routes_reach_the_kernel_with_weights_and_leave_it() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let weighted = vec![("10.0.1.1".to_owned(), 1), ("10.0.2.1".to_owned(), 3)];
    assert_eq!(bench.fib(254).get(&net("100.64.1.0/24")), Some(&weighted));
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"]);
    bench.say(&[withdraw("100.64.1.0/24"), withdraw("100.64.2.0/24"), withdraw("100.64.3.0/24")]);
    assert!(bench.fib(254).is_empty());
    assert!(bench.kernel.nexthops.is_empty(), "unused nexthop objects are removed");
}

#[test]
fn a_change_of_a_group_is_one_message_however_many_routes() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)])]);
    let routes: Vec<Update> =
        (0..1000).map(|i| route(&format!("100.{}.{}.0/24", 64 + i / 256, i % 256), 20)).collect();
    bench.say(&routes);
    bench.replayed();
    let operations = bench.operations(|bench| bench.say(&[group(20, &[(12, 1)])]));
    assert_eq!(bench.via("100.64.7.0/24"), ["10.0.2.1"]);
    assert!(operations <= 2, "one replacement, one unused object deleted: {operations} operations");
}

#[test]
fn groups_may_come_before_their_members() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.say(&[group(20, &[(11, 1)]), route("100.64.1.0/24", 20)]);
    assert!(bench.via("100.64.1.0/24").is_empty());
    bench.say(&[hop(11, "10.0.1.1", 2)]);
    assert_eq!(bench.via("100.64.1.0/24"), ["10.0.1.1"]);
}

#[test]
fn a_nexthop_that_was_never_announced_leaves_the_programmed_route() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.say(&[route("100.64.3.0/24", 99)]);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"]);
    let counts = bench.engine.counts();
    assert_eq!(counts.rejected.get(reason::NEXTHOP_UNRESOLVED), Some(&1));
    bench.say(&[hop(99, "10.0.2.1", 3)]);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.2.1"]);
}

#[test]
fn what_the_kernel_drops_silently_with_a_link_comes_back_with_it() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let before = bench.fib(254);
    let operations = bench.operations(|bench| bench.set_link(2, false));
    assert_eq!(operations, 0, "the kernel has pruned by itself");
    assert_eq!(bench.via("100.64.1.0/24"), ["10.0.2.1"]);
    assert!(bench.via("100.64.3.0/24").is_empty());
    let rows = bench.rows("100.64.3.0/24");
    assert_eq!((rows[0].state, rows[0].reason), (RouteState::Pending, reason::NO_USABLE_LINK));
    bench.set_link(2, true);
    assert_eq!(bench.fib(254), before);
    assert!(bench.engine.is_idle());
}

#[test]
fn a_restart_changes_nothing() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let operations = bench.operations(|bench| {
        bench.restart();
        bench.connect(PID);
        two_paths(bench);
    });
    assert_eq!(operations, 0);
    assert!(bench.engine.feed().is_synchronized());
}

#[test]
fn a_reconnect_of_the_same_zebra_sweeps_at_the_end_of_the_replay() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.engine.fpm_disconnected(bench.now);
    bench.settle();
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"], "kept while FRR is gone");
    bench.connect(PID);
    // Another order, and one route less.
    let operations = bench.operations(|bench| {
        bench.say(&[group(20, &[(11, 1), (12, 3)]), hop(12, "10.0.2.1", 3), hop(11, "10.0.1.1", 2)]);
        bench.say(&[route("100.64.2.0/24", 20), route("100.64.1.0/24", 20)]);
    });
    assert_eq!(operations, 0);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"], "held until the replay is whole");
    bench.replayed();
    assert!(bench.via("100.64.3.0/24").is_empty());
    assert_eq!(bench.via("100.64.1.0/24").len(), 2);
}

#[test]
fn another_zebra_has_time_to_converge() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.engine.fpm_disconnected(bench.now);
    bench.wait(5);
    bench.connect(PID + 1);
    // The new zebra numbers its nexthops anew: id 11 now means the other gateway.
    bench.say(&[hop(11, "10.0.2.1", 3), route("100.64.9.0/24", 11)]);
    bench.replayed();
    assert_eq!(bench.via("100.64.9.0/24"), ["10.0.2.1"]);
    assert_eq!(
        bench.via("100.64.3.0/24"),
        ["10.0.1.1"],
        "still by what id 11 meant to the zebra that is gone"
    );
    bench.wait(110);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"]);
    bench.wait(10);
    assert!(bench.via("100.64.3.0/24").is_empty());
    assert_eq!(bench.via("100.64.9.0/24"), ["10.0.2.1"]);
}

#[test]
fn retained_routes_outlive_frr_for_their_time_only() {
    for (policy, kept_at_0, kept_at_119, kept_at_121) in [
        (FeedLoss::Retain(Some(Duration::from_secs(120))), true, true, false),
        (FeedLoss::Retain(None), true, true, true),
        (FeedLoss::Withdraw, false, false, false),
    ] {
        let mut spec = import(5000, 254);
        spec.on_feed_loss = policy;
        let mut bench = Bench::new(vec![spec]);
        two_paths(&mut bench);
        let kept = |bench: &Bench| !bench.via("100.64.3.0/24").is_empty();
        bench.engine.fpm_disconnected(bench.now);
        bench.wait(0);
        assert_eq!(kept(&bench), kept_at_0, "{policy:?}");
        bench.wait(119);
        assert_eq!(kept(&bench), kept_at_119, "{policy:?}");
        bench.wait(2);
        assert_eq!(kept(&bench), kept_at_121, "{policy:?}");
    }
}

#[test]
fn a_route_that_the_kernel_refuses_does_not_cost_the_others() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.kernel.refuse.insert(net("100.64.3.0/24"));
    bench.kernel.refuse.insert(net("100.64.8.0/24"));
    bench.say(&[route("100.64.3.0/24", 12), route("100.64.8.0/24", 12), route("100.64.7.0/24", 12)]);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1"], "the former route stays");
    assert_eq!(bench.via("100.64.7.0/24"), ["10.0.2.1"]);
    assert_eq!(bench.engine.counts().failed, 2);
    bench.kernel.refuse.clear();
    bench.wait(2);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.2.1"]);
    assert_eq!(bench.via("100.64.8.0/24"), ["10.0.2.1"]);
    assert_eq!(bench.engine.counts().failed, 0);
}

#[test]
fn somebody_elses_route_is_never_replaced() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.kernel.add_foreign(254, net("100.64.1.0/24"), 20);
    two_paths(&mut bench);
    let rows = bench.rows("100.64.1.0/24");
    assert_eq!((rows[0].state, rows[0].reason), (RouteState::Failed, reason::FOREIGN_ROUTE));
    assert!(bench.kernel.has_foreign(254, net("100.64.1.0/24"), 20));
    bench.say(&[withdraw("100.64.1.0/24")]);
    assert!(bench.kernel.has_foreign(254, net("100.64.1.0/24"), 20));
}

#[test]
fn what_somebody_deletes_is_put_back() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let before = bench.fib(254);
    let gone = bench.kernel.delete(254, net("100.64.1.0/24"), 20);
    bench.engine.route_vanished(&gone, bench.now);
    bench.settle();
    assert_eq!(bench.fib(254), before);
    // Deleting an object takes its groups and routes along; only the object's end is notified.
    let ids: Vec<_> = bench.kernel.nexthops.keys().copied().collect();
    for id in ids {
        bench.kernel.delete_nexthop(id);
        bench.engine.nexthop_vanished(id, bench.now);
        bench.settle();
        assert_eq!(bench.fib(254), before, "after the loss of {id:?}");
    }
    assert!(bench.engine.stats().drift > 0);
}

#[test]
fn default_routes_need_leave_and_carry_their_gateways_in_main() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2), route("0.0.0.0/0", 11), route("0.0.0.0/1", 11)]);
    assert_eq!(bench.via("0.0.0.0/1"), ["10.0.1.1"], "one half is not a default route");
    assert!(bench.via("0.0.0.0/0").is_empty());
    bench.say(&[route("128.0.0.0/1", 11)]);
    assert!(bench.via("0.0.0.0/1").is_empty() && bench.via("128.0.0.0/1").is_empty(), "both halves are");
    bench.intent.imports[0].default_route = DefaultRoute::Accept;
    bench.replan();
    bench.settle();
    let found = bench.kernel.routes.values().find(|route| route.key.prefix == net("0.0.0.0/0")).unwrap();
    assert!(matches!(found.target, RouteTarget::Inline(_)), "never by nexthop id: {found:?}");
    assert_eq!(bench.via("128.0.0.0/1"), ["10.0.1.1"]);
}

#[test]
fn a_table_that_frr_writes_is_never_written() {
    let mut bench = Bench::new(vec![import(5000, 5000)]);
    two_paths(&mut bench);
    bench.replan();
    bench.settle();
    assert!(bench.fib(5000).is_empty());
    assert_eq!(bench.engine.plan().problems[0].reason, reason::TABLE_OWNED_BY_ZEBRA);
}

#[test]
fn imports_into_one_table_unite_their_nexthops() {
    let mut second = import(5001, 254);
    second.owners[0].name = "second".to_owned();
    let mut bench = Bench::new(vec![import(5000, 254), second]);
    two_paths(&mut bench);
    let key = FpmKey::new(TableId(5001), net("100.64.3.0/24"));
    bench.say(&[Update::Route(Route::by_nexthop(key, Protocol::STATIC, FpmId(12)))]);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.1.1", "10.0.2.1"]);
    bench.say(&[withdraw("100.64.3.0/24")]);
    assert_eq!(bench.via("100.64.3.0/24"), ["10.0.2.1"]);
}

#[test]
fn interfaces_of_the_import_select_nexthops() {
    let mut spec = import(5000, 254);
    spec.from_interfaces.insert("e3".to_owned());
    let mut bench = Bench::new(vec![spec]);
    two_paths(&mut bench);
    assert_eq!(bench.via("100.64.1.0/24"), ["10.0.2.1"]);
    assert!(bench.via("100.64.3.0/24").is_empty());
    assert_eq!(bench.engine.counts().rejected.get(reason::INTERFACE_NOT_SELECTED), Some(&1));
}

#[test]
fn blackholes_keep_their_kind() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    let kinds = [
        ("100.64.1.0/24", RouteKind::Blackhole, Special::Blackhole),
        ("100.64.2.0/24", RouteKind::Unreachable, Special::Unreachable),
        ("100.64.3.0/24", RouteKind::Prohibit, Special::Prohibit),
    ];
    for (prefix, kind, _) in kinds {
        let key = FpmKey::new(TableId(5000), net(prefix));
        bench.say(&[Update::Route(Route::new(key, Protocol::STATIC, kind, Target::None))]);
    }
    for (prefix, _, special) in kinds {
        let found = bench.kernel.routes.values().find(|route| route.key.prefix == net(prefix)).unwrap();
        assert_eq!(found.target, RouteTarget::Special(special));
    }
}

#[test]
fn a_preview_names_what_another_intent_would_change() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let zebra = ZebraTables { complete: true, ..ZebraTables::default() };
    let preview = |bench: &Bench, intent: &Intent| {
        let plan = Plan::compile(PlanInput {
            intent,
            links: &bench.links,
            zebra: &zebra,
            facts: &NodeFacts::default(),
        });
        bench.engine.preview(&plan, |_| None)
    };
    assert!(preview(&bench, &bench.intent).is_empty());
    let mut other = bench.intent.clone();
    other.imports[0].allowed =
        Allowed::Prefixes(vec![PrefixMatch { prefix: net("100.64.1.0/24"), ge: 24, le: 24 }]);
    let operations = bench.operations(|bench| assert_eq!(preview(bench, &other).len(), 2));
    assert_eq!(operations, 0);
}
