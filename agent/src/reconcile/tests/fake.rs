//! A kernel made of maps, with the habits of the real one that matter here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use crate::model::ops::{Batch, BatchDone, OpError, RouteOp};
use crate::model::{KernelRoute, NexthopBody, NexthopId, NexthopObject, RouteKey, RouteTarget};

const OURS: u8 = 201;

/// Routes and nexthop objects.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) routes: BTreeMap<RouteKey, KernelRoute>,
    pub(super) nexthops: BTreeMap<NexthopId, NexthopObject>,
    pub(super) down: BTreeSet<u32>,
    /// Prefixes that it refuses to add or replace.
    pub(super) refuse: BTreeSet<IpNet>,
    pub(super) operations: usize,
}

impl Kernel {
    pub(super) fn apply(&mut self, batch: Batch) -> BatchDone {
        let mut errors = Vec::new();
        for (index, op) in batch.ops.iter().enumerate() {
            self.operations += 1;
            if let Err(errno) = self.run(op) {
                errors.push(OpError { index, errno, text: None });
            }
        }
        BatchDone { id: batch.id, ops: batch.ops, errors, elapsed: Duration::ZERO }
    }

    fn run(&mut self, op: &RouteOp) -> Result<(), i32> {
        match op {
            RouteOp::AddRoute(route) => {
                if self.routes.contains_key(&route.key) {
                    return Err(libc::EEXIST);
                }
                self.put(route)
            }
            RouteOp::ReplaceRoute(route) => self.put(route),
            RouteOp::DelRoute(route) => {
                let same = self
                    .routes
                    .get(&route.key)
                    .is_some_and(|found| found.protocol == route.protocol && found.target == route.target);
                if !same {
                    return Err(libc::ESRCH);
                }
                self.routes.remove(&route.key);
                Ok(())
            }
            RouteOp::AddNexthop(object) if self.nexthops.contains_key(&object.id) => Err(libc::EEXIST),
            RouteOp::AddNexthop(object) => self.put_nexthop(object, true),
            RouteOp::ReplaceNexthop(object) => self.put_nexthop(object, false),
            RouteOp::DelNexthop(id) => {
                if !self.nexthops.contains_key(id) {
                    return Err(libc::ENOENT);
                }
                self.delete_nexthop(*id);
                Ok(())
            }
        }
    }

    fn put(&mut self, route: &KernelRoute) -> Result<(), i32> {
        if self.refuse.contains(&route.key.prefix) {
            return Err(libc::EINVAL);
        }
        match &route.target {
            RouteTarget::Nexthop(id) if !self.nexthops.contains_key(id) => return Err(libc::EINVAL),
            RouteTarget::Inline(hops) if hops.iter().any(|(hop, _)| self.down.contains(&hop.ifindex)) => {
                return Err(libc::ENETDOWN);
            }
            _ => {}
        }
        self.routes.insert(route.key, route.clone());
        Ok(())
    }

    /// In the kernel's order of checks (net/ipv4/nexthop.c, `rtm_new_nexthop`).
    fn put_nexthop(&mut self, object: &NexthopObject, create: bool) -> Result<(), i32> {
        match &object.body {
            NexthopBody::Single(hop) if self.down.contains(&hop.ifindex) => return Err(libc::ENETDOWN),
            NexthopBody::Group(members) | NexthopBody::Resilient(members, _) => {
                if members.is_empty() {
                    return Err(libc::EINVAL);
                }
                let single = |id: &NexthopId| {
                    matches!(self.nexthops.get(id).map(|object| &object.body), Some(NexthopBody::Single(_)))
                };
                if !members.iter().all(|member| single(&member.id)) {
                    return Err(libc::EINVAL);
                }
            }
            _ => {}
        }
        if !create && !self.nexthops.contains_key(&object.id) {
            return Err(libc::ENOENT);
        }
        if self.changes_type(object) {
            return Err(libc::EINVAL);
        }
        self.nexthops.insert(object.id, object.clone());
        Ok(())
    }

    /// Somebody else's `ip nexthop replace`. A group keeps its protocol.
    pub(super) fn replace_nexthop(&mut self, mut object: NexthopObject) -> Result<NexthopObject, i32> {
        let old = self.nexthops.get(&object.id).filter(|old| !matches!(old.body, NexthopBody::Single(_)));
        object.protocol = old.map_or(object.protocol, |old| old.protocol);
        self.put_nexthop(&object, true).map(|()| object)
    }

    /// Whether an object is a group, a group's type and its number of buckets are for life.
    fn changes_type(&self, object: &NexthopObject) -> bool {
        let kind = |body: &NexthopBody| match body {
            NexthopBody::Resilient(_, how) => (true, Some(*how)),
            body => (matches!(body, NexthopBody::Group(_)), None),
        };
        self.nexthops.get(&object.id).is_some_and(|old| kind(&old.body) != kind(&object.body))
    }

    /// The groups lose the member; what is left empty goes with its routes. Nobody is told.
    pub(super) fn delete_nexthop(&mut self, id: NexthopId) {
        let mut gone = vec![id];
        for (group, object) in &mut self.nexthops {
            if let NexthopBody::Group(members) | NexthopBody::Resilient(members, _) = &mut object.body {
                members.retain(|member| member.id != id);
                if members.is_empty() {
                    gone.push(*group);
                }
            }
        }
        for id in gone {
            self.nexthops.remove(&id);
            self.routes.retain(|_, route| route.target != RouteTarget::Nexthop(id));
        }
    }

    /// The object that leads to a gateway.
    pub(super) fn hop_via(&self, gateway: &str) -> NexthopId {
        let leads = |object: &&NexthopObject| matches!(&object.body, NexthopBody::Single(hop) if hop.gateway.is_some_and(|it| it.to_string() == gateway));
        self.nexthops.values().find(leads).unwrap().id
    }

    pub(super) fn set_link(&mut self, ifindex: u32, up: bool) {
        if up {
            self.down.remove(&ifindex);
            return;
        }
        self.down.insert(ifindex);
        let on_it = |object: &&NexthopObject| matches!(&object.body, NexthopBody::Single(hop) if hop.ifindex == ifindex);
        let ids: Vec<NexthopId> = self.nexthops.values().filter(on_it).map(|object| object.id).collect();
        ids.into_iter().for_each(|id| self.delete_nexthop(id));
        self.routes.retain(|_, route| match &route.target {
            RouteTarget::Inline(hops) => hops.iter().all(|(hop, _)| hop.ifindex != ifindex),
            _ => true,
        });
    }

    pub(super) fn dump(&self) -> (Vec<NexthopObject>, Vec<KernelRoute>) {
        let nexthops = self.nexthops.values().filter(|object| object.protocol == OURS).cloned().collect();
        let routes = self.routes.values().filter(|route| route.protocol == OURS).cloned().collect();
        (nexthops, routes)
    }

    pub(super) fn add_foreign(&mut self, table: u32, prefix: IpNet, metric: u32) {
        let key = RouteKey { table, prefix, metric };
        let target = RouteTarget::Special(crate::model::Special::Prohibit);
        let route =
            KernelRoute { key, target, preferred_source: None, mtu: None, protocol: 4, scope_link: false };
        self.routes.insert(key, route);
    }

    pub(super) fn has_foreign(&self, table: u32, prefix: IpNet, metric: u32) -> bool {
        self.routes.get(&RouteKey { table, prefix, metric }).is_some_and(|route| route.protocol == 4)
    }

    pub(super) fn delete(&mut self, table: u32, prefix: IpNet, metric: u32) -> KernelRoute {
        self.routes.remove(&RouteKey { table, prefix, metric }).unwrap()
    }

    /// Where packets go, for routes of ours with nexthops.
    pub(super) fn forwarding(&self, table: u32) -> BTreeMap<IpNet, Vec<(String, u16)>> {
        let ours = self.routes.values().filter(|route| route.key.table == table && route.protocol == OURS);
        ours.map(|route| (route.key.prefix, self.hops(&route.target))).collect()
    }

    fn hops(&self, target: &RouteTarget) -> Vec<(String, u16)> {
        let via =
            |hop: &crate::model::Hop| hop.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
        let mut hops: Vec<(String, u16)> = match target {
            RouteTarget::Inline(hops) => hops.iter().map(|(hop, weight)| (via(hop), *weight)).collect(),
            RouteTarget::Special(kind) => vec![(format!("{kind:?}"), 0)],
            RouteTarget::Nexthop(id) => match self.nexthops.get(id).map(|object| &object.body) {
                Some(NexthopBody::Single(hop)) => vec![(via(hop), 1)],
                Some(NexthopBody::Group(members) | NexthopBody::Resilient(members, _)) => members
                    .iter()
                    .filter_map(|member| match &self.nexthops.get(&member.id)?.body {
                        NexthopBody::Single(hop) => Some((via(hop), member.weight)),
                        _ => None,
                    })
                    .collect(),
                _ => Vec::new(),
            },
        };
        hops.sort();
        hops
    }
}
