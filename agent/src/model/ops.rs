//! Operations on routes and nexthop objects: what `reconcile` emits and the netlink edge applies.

use std::fmt;
use std::time::Duration;

use super::{KernelRoute, NexthopId, NexthopObject};

/// One change of the kernel's routes or nexthop objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteOp {
    /// Adds a route; EEXIST when one with its key is there, whoever made it. (For IPv6 the kernel takes a route with
    /// an inline nexthop beside another of the same key as one more path only without NLM_F_EXCL, which is set.)
    AddRoute(KernelRoute),
    /// Adds or replaces a route. Whose route is replaced the kernel does not ask: only for what is proven ours.
    ReplaceRoute(KernelRoute),
    /// Deletes exactly this route: prefix, table, metric, protocol, type, and nexthop id or gateways must match;
    /// else ESRCH. An IPv4 metric of 0 matches any metric; IPv6 does not compare the type of a special route, so
    /// that its deletion takes whatever route of the protocol has its key.
    DelRoute(KernelRoute),
    /// Adds a nexthop object; EEXIST when the id is taken.
    AddNexthop(NexthopObject),
    /// Replaces a nexthop object; routes that use it follow at once. ENOENT when it is not there: then neither are its
    /// routes, which an object made anew would not bring back. EINVAL, looked for first, when a member of a group is not.
    ReplaceNexthop(NexthopObject),
    /// Deletes a nexthop object, and with it the groups that have no other member and all routes that use either.
    DelNexthop(NexthopId),
}

impl fmt::Display for RouteOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRoute(route) => write!(f, "add route {}", route.key),
            Self::ReplaceRoute(route) => write!(f, "replace route {}", route.key),
            Self::DelRoute(route) => write!(f, "delete route {}", route.key),
            Self::AddNexthop(object) => write!(f, "add nexthop {}", object.id.0),
            Self::ReplaceNexthop(object) => write!(f, "replace nexthop {}", object.id.0),
            Self::DelNexthop(id) => write!(f, "delete nexthop {}", id.0),
        }
    }
}

/// An operation that the kernel refused. The other operations of its batch are not affected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpError {
    /// Index into [`BatchDone::ops`].
    pub index: usize,
    /// Positive errno. ENOBUFS: the answer was lost, so the outcome is unknown.
    pub errno: i32,
    /// The kernel's own words, where it gave any.
    pub text: Option<String>,
}

/// Operations to apply in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Chosen by the submitter; comes back in [`BatchDone`].
    pub id: u64,
    /// Applied first to last. Routes in hashed order are up to 40 times faster than in ascending order.
    pub ops: Vec<RouteOp>,
}

/// A batch that has been applied, as far as the kernel let it.
#[derive(Debug)]
pub struct BatchDone {
    /// The batch's id.
    pub id: u64,
    /// The batch's operations, given back.
    pub ops: Vec<RouteOp>,
    /// What was refused, by ascending index; all else is in the kernel.
    pub errors: Vec<OpError>,
    /// From taking the batch to the kernel's last answer.
    pub elapsed: Duration,
}
