//! The API: `backtrail.dev/v1alpha1`, all kinds cluster-scoped.
//!
//! One source for files and clusters: the CRDs are derived from these types, and manifests in files are
//! checked against the very same CRDs ([`crate::intent`]). Field lists and rules are in the types; what
//! objects mean together is in [`crate::intent`].

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct inside a function")]
#![expect(clippy::duplicated_attributes, reason = "every printer column has a type_")]

mod common;
mod crd;
mod dataplane_config;
mod node_routing_state;
mod return_path;
mod route_import;
mod text;
mod traffic_policy;
mod vrf_attachment;

pub use common::*;
pub use crd::{crd_yaml, crds};
pub use dataplane_config::*;
pub use node_routing_state::*;
pub use return_path::*;
pub use route_import::*;
pub use text::*;
pub use traffic_policy::*;
pub use vrf_attachment::*;

/// Group of all kinds.
pub const GROUP: &str = "backtrail.dev";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "backtrail.dev/v1alpha1";

#[cfg(test)]
mod tests;
