//! Netlink payloads: what zebra sends in frames of type 1, and the kernel in its own dumps.
//!
//! Multi-byte numbers are in host byte order, as FPM carries them between processes of one machine; addresses and
//! MPLS labels in network byte order. Sources: FRR's `zebra/rt_netlink.c`, the kernel's `include/uapi/linux`.

mod attr;
mod encap;
mod encode;
mod feedback;
mod message;
mod neighbor;
mod nexthop;
mod route;
mod wire;

pub use attr::{Attribute, AttributeError, Attributes};
pub use encode::encode;
pub use feedback::{FeedbackUnsupported, Offload, feedback_support, write_feedback};
pub use message::{DecodeError, Invalid, Summary, decode, decode_message};

#[cfg(test)]
mod tests;
