//! Backtrail: the node dataplane beside FRR.
//!
//! The way of the data, one direction: FPM ([`zebra_fpm`]) → [`rib`] (learned) → [`plan`] (pure) →
//! [`reconcile`] (difference) → [`kernel`] and [`steering`] (edges) → acknowledgement → [`status`].
//! [`api`] and [`intent`] turn manifests into the other input of `plan`. See `ARCHITECTURE.md`.

pub mod api;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod explain;
mod host;
pub mod intent;
pub mod kernel;
pub mod kube;
pub mod metrics;
pub mod model;
pub mod plan;
mod preflight;
pub mod reconcile;
pub mod rib;
pub mod status;
pub mod steering;
