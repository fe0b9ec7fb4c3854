//! Random operations through the real kernel, compared with a model of what they should do.

use std::collections::BTreeMap;

use backtrail::kernel::dump::{RouteFilter, dump_nexthops};
use backtrail::kernel::programmer::RouteOp;
use backtrail::model::{
    Family, KernelRoute, Member, NexthopBody, NexthopId, NexthopObject, RouteKey, RouteTarget, Special,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{Links, OURS, TABLE, apply, apply_all, dumped, in_namespace, ip, single};

/// Nexthops 1 to 3 are IPv4, 4 to 6 IPv6; group 10 has members of the former, 11 of the latter.
const SINGLES: [u32; 6] = [1, 2, 3, 4, 5, 6];
const GROUPS: [u32; 2] = [10, 11];
/// Routes of two protocols compete for the same keys.
const PROTOCOLS: [u8; 2] = [OURS, 202];

/// What the kernel should hold.
#[derive(Debug, Default, PartialEq)]
struct Model {
    nexthops: BTreeMap<NexthopId, NexthopBody>,
    routes: BTreeMap<RouteKey2, (RouteTarget, u8)>,
}

/// A [`RouteKey`] that can be sorted.
type RouteKey2 = (ipnet::IpNet, u32);

fn key(route: &KernelRoute) -> RouteKey2 {
    (route.key.prefix, route.key.metric)
}

impl Model {
    /// Applies an operation; returns whether the kernel should take it.
    fn apply(&mut self, op: &RouteOp) -> bool {
        match op {
            RouteOp::AddNexthop(object) => {
                let fits = !self.nexthops.contains_key(&object.id) && self.has_members(&object.body);
                self.write(fits, object)
            }
            RouteOp::ReplaceNexthop(object) => {
                let fits = self.nexthops.contains_key(&object.id) && self.has_members(&object.body);
                self.write(fits, object)
            }
            RouteOp::DelNexthop(id) => self.delete(*id),
            RouteOp::AddRoute(route) => {
                let fits = !self.routes.contains_key(&key(route)) && self.has_target(route);
                self.route(fits, route)
            }
            RouteOp::ReplaceRoute(route) => {
                let fits = self.has_target(route);
                self.route(fits, route)
            }
            RouteOp::DelRoute(route) => {
                // IPv6 does not compare the type of a route without nexthop.
                let loose = Family::of(&route.key.prefix) == Family::Ipv6
                    && matches!(route.target, RouteTarget::Special(_));
                let there = self.routes.get(&key(route)).is_some_and(|(target, protocol)| {
                    *protocol == route.protocol && (loose || *target == route.target)
                });
                if there {
                    self.routes.remove(&key(route));
                }
                there
            }
        }
    }

    fn has_members(&self, body: &NexthopBody) -> bool {
        match body {
            NexthopBody::Group(members) => {
                members.iter().all(|member| self.nexthops.contains_key(&member.id))
            }
            NexthopBody::Single(_) | NexthopBody::Resilient(..) | NexthopBody::Other => true,
        }
    }

    fn write(&mut self, fits: bool, object: &NexthopObject) -> bool {
        if fits {
            self.nexthops.insert(object.id, object.body.clone());
        }
        fits
    }

    /// Whether the route's nexthop is there, and of a family that the route can use.
    fn has_target(&self, route: &KernelRoute) -> bool {
        match &route.target {
            RouteTarget::Nexthop(id) => {
                let v6 = matches!(id.0, 4..=6 | 11);
                self.nexthops.contains_key(id) && (v6 || Family::of(&route.key.prefix) == Family::Ipv4)
            }
            RouteTarget::Inline(_) | RouteTarget::Special(_) => true,
        }
    }

    fn route(&mut self, fits: bool, route: &KernelRoute) -> bool {
        if fits {
            self.routes.insert(key(route), (route.target.clone(), route.protocol));
        }
        fits
    }

    /// A nexthop goes with the groups that it leaves empty and the routes that use any of these.
    fn delete(&mut self, id: NexthopId) -> bool {
        let there = self.nexthops.remove(&id).is_some();
        for body in self.nexthops.values_mut() {
            if let NexthopBody::Group(members) = body {
                members.retain(|member| member.id != id);
            }
        }
        self.nexthops.retain(|_, body| !matches!(body, NexthopBody::Group(members) if members.is_empty()));
        let nexthops = &self.nexthops;
        self.routes.retain(|_, (target, _)| match target {
            RouteTarget::Nexthop(id) => nexthops.contains_key(id),
            RouteTarget::Inline(_) | RouteTarget::Special(_) => true,
        });
        there
    }

    /// What the kernel holds.
    fn observed() -> Self {
        let nexthops = dump_nexthops(None).expect("dump").into_iter().map(|object| (object.id, object.body));
        let routes = dumped(RouteFilter { table: Some(TABLE), ..RouteFilter::default() });
        Self {
            nexthops: nexthops.collect(),
            routes: routes.into_iter().map(|route| (key(&route), (route.target, route.protocol))).collect(),
        }
    }
}

/// Removes what an earlier case left.
fn clear() {
    let routes = dumped(RouteFilter { table: Some(TABLE), ..RouteFilter::default() });
    apply_all(routes.into_iter().map(RouteOp::DelRoute).collect());
    ip("nexthop flush");
}

fn object(Links { v0, v1 }: Links) -> impl Strategy<Value = NexthopObject> {
    let singles =
        (proptest::sample::select(&SINGLES), 2..9u8, any::<bool>()).prop_map(move |(id, last, first)| {
            let gateway = match (id, first) {
                (1..=3, true) => format!("10.0.0.{last}"),
                (1..=3, false) => format!("10.0.1.{last}"),
                (_, true) => format!("fd00::{last}"),
                (_, false) => format!("fd00:1::{last}"),
            };
            single(id, &gateway, if first { v0 } else { v1 })
        });
    let members = proptest::collection::btree_map(0..3u32, 1..=256u16, 1..=3);
    let groups = (proptest::sample::select(&GROUPS), members).prop_map(|(id, members)| {
        let first = if id == 10 { 1 } else { 4 };
        let members = members.into_iter().map(|(n, weight)| Member { id: NexthopId(first + n), weight });
        NexthopObject { id: NexthopId(id), protocol: OURS, body: NexthopBody::Group(members.collect()) }
    });
    prop_oneof![3 => singles, 2 => groups]
}

fn a_route() -> impl Strategy<Value = KernelRoute> {
    let prefixes =
        ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.128/25", "::/0", "2001:db8::/32", "2001:db8:1::/48"];
    let ids: Vec<u32> = SINGLES.into_iter().chain(GROUPS).collect();
    let target = prop_oneof![
        6 => proptest::sample::select(ids).prop_map(|id| RouteTarget::Nexthop(NexthopId(id))),
        1 => proptest::sample::select(vec![Special::Blackhole, Special::Unreachable, Special::Prohibit])
            .prop_map(RouteTarget::Special),
    ];
    let (metrics, protocols) = (proptest::sample::select(&[20, 30]), proptest::sample::select(&PROTOCOLS));
    (proptest::sample::select(prefixes.to_vec()), metrics, target, protocols).prop_map(
        |(prefix, metric, target, protocol)| KernelRoute {
            key: RouteKey { table: TABLE, prefix: prefix.parse().expect("a prefix"), metric },
            target,
            preferred_source: None,
            mtu: None,
            protocol,
            scope_link: false,
        },
    )
}

fn operation(links: Links) -> impl Strategy<Value = RouteOp> {
    let ids: Vec<u32> = SINGLES.into_iter().chain(GROUPS).collect();
    prop_oneof![
        4 => object(links).prop_map(RouteOp::AddNexthop),
        2 => object(links).prop_map(RouteOp::ReplaceNexthop),
        1 => proptest::sample::select(ids).prop_map(|id| RouteOp::DelNexthop(NexthopId(id))),
        5 => a_route().prop_map(RouteOp::AddRoute),
        2 => a_route().prop_map(RouteOp::ReplaceRoute),
        3 => a_route().prop_map(RouteOp::DelRoute),
    ]
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_kernel_does_what_the_model_says() {
    in_namespace(|links| {
        let mut runner =
            TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
        let batches = proptest::collection::vec(proptest::collection::vec(operation(links), 1..40), 1..4);
        let checked = runner.run(&batches, |batches| {
            clear();
            let mut model = Model::observed();
            prop_assert_eq!(&model, &Model::default());
            for ops in batches {
                let refused: Vec<usize> = (0..ops.len()).filter(|index| !model.apply(&ops[*index])).collect();
                let done = apply(ops);
                let told: Vec<usize> = done.errors.iter().map(|error| error.index).collect();
                prop_assert_eq!(&told, &refused, "{:#?}", done);
                prop_assert_eq!(&Model::observed(), &model);
            }
            Ok(())
        });
        if let Err(failure) = checked {
            panic!("{failure}");
        }
    });
}
