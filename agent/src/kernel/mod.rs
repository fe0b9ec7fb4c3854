//! The netlink edge: everything that Backtrail reads from and writes to the kernel's routing, links and sysctls.
//!
//! Three kinds of sockets, for three kinds of work:
//! - [`programmer`]: a thread with a blocking socket and its own encoder, for routes and nexthop objects by the million;
//! - [`dump`], [`lookup`] and [`peers`]: blocking readers of routes, nexthop objects and BGP sessions; a [`gate`] keeps dumps
//!   out of the programmer's way;
//! - [`observe`], [`actions`] and [`devices`]: links, addresses, neighbours and rules, a few at a time, over `rtnetlink`.
//!
//! [`monitor`] turns the kernel's notifications into [`monitor::Notification`]s; [`sysctl`] writes sysctls and
//! remembers what they were. Nothing here decides anything: what to do is `reconcile`'s.

pub mod actions;
mod client;
mod convert;
pub mod devices;
pub mod dump;
mod error;
pub mod gate;
pub mod lookup;
pub mod monitor;
mod nexthop;
pub mod observe;
pub mod peers;
pub mod programmer;
mod record;
mod route;
mod rules;
mod socket;
pub mod sysctl;
mod taken;
#[cfg(test)]
mod tests;
mod wire;

pub use error::KernelError;
