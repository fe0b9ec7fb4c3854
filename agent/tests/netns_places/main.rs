//! Steering on real wires: a real agent, real and hand-made packets, and who sees which frame.
//!
//! ```text
//! client --- router ---(rdef vdef: default route)--- node (services on lo)
//!                  \---(rred vred: requests)--------/
//! ```

mod balancer;
mod devices;
mod foreign;
mod gateways;
mod life;
mod never;
mod order;
mod pods;
mod rig;
mod scope;
mod sink;
mod traffic;
mod tunnels;
mod wireguard;
