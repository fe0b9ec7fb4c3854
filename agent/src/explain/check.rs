//! What was worked out, against what the kernel answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{End, Walk, World};
use crate::kernel::lookup::Answer;
use crate::model::{KernelRoute, Special};

/// `rtm_type`
const UNICAST: u8 = 1;
/// `rtm_type`
const LOCAL: u8 = 2;

/// The kernel's answer to RTM_GETROUTE with the packet's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelAnswer {
    /// Table that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The route that decided, as `ip` prints it (RTM_F_FIB_MATCH).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Gateway; omitted when the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Egress interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Source address that it would choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Whether the packet is for this node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// The refusal, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Compares. Returns the answer in words, and how it differs if it does.
#[must_use]
pub fn check(
    walk: &Walk,
    answer: &Result<Answer, i32>,
    matched: Option<&KernelRoute>,
    world: &World<'_>,
) -> (KernelAnswer, Option<String>) {
    let (shown, differs) = match answer {
        Ok(answer) => {
            let shown = KernelAnswer {
                table: Some(answer.table),
                route: matched.map(|route| route.key.to_string()),
                via: answer.gateway,
                dev: answer.oif.map(|ifindex| world.name(ifindex)),
                source: answer.source,
                local: answer.kind == LOCAL,
                error: special(answer.kind).map(|kind| format!("{kind:?}").to_lowercase()),
            };
            (shown, difference(walk, answer, matched, world))
        }
        Err(errno) => {
            let words = std::io::Error::from_raw_os_error(*errno).to_string();
            let differs = match (&walk.end, *errno) {
                (End::Nothing | End::Special(Special::Unreachable), libc::ENETUNREACH)
                | (End::Special(Special::Unreachable), libc::EHOSTUNREACH)
                | (End::Special(Special::Prohibit), libc::EACCES)
                | (End::Special(Special::Blackhole), libc::EINVAL) => None,
                (_, libc::EXDEV) => Some(
                    "the kernel drops it on arrival: the route back to its source leaves by another interface \
                     (rp_filter is strict)"
                        .to_owned(),
                ),
                (End::Route(..), libc::EHOSTUNREACH) => Some(
                    "the kernel refuses it: does the interface that it comes in by forward \
                     (net.ipv4.conf.IF.forwarding), and does it have an address?"
                        .to_owned(),
                ),
                _ => Some(format!("the kernel refuses it ({words})")),
            };
            (KernelAnswer { error: Some(words), ..KernelAnswer::default() }, differs)
        }
    };
    let doubt = |text: String| match walk.doubts.first() {
        Some(rule) => format!("{text}; a rule is not interpreted and may have matched: {rule}"),
        None => text,
    };
    (shown, differs.map(doubt))
}

fn special(kind: u8) -> Option<Special> {
    match kind {
        6 => Some(Special::Blackhole),
        7 => Some(Special::Unreachable),
        8 => Some(Special::Prohibit),
        _ => None,
    }
}

fn difference(
    walk: &Walk,
    answer: &Answer,
    matched: Option<&KernelRoute>,
    world: &World<'_>,
) -> Option<String> {
    match &walk.end {
        End::Route(route, hops) => {
            if answer.kind != UNICAST {
                return Some(format!("the kernel does not forward it (type {})", answer.kind));
            }
            if answer.table != route.key.table {
                return Some(format!("the kernel takes table {}", answer.table));
            }
            if let Some(matched) = matched.filter(|matched| matched.key != route.key) {
                return Some(format!("the kernel takes the route {}", matched.key));
            }
            let leads =
                |hop: &crate::model::Hop| Some(hop.ifindex) == answer.oif && hop.gateway == answer.gateway;
            if hops.is_empty() || hops.iter().any(|(hop, _)| leads(hop)) {
                return None;
            }
            let via = answer.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
            let dev = answer.oif.map(|ifindex| world.name(ifindex)).unwrap_or_default();
            Some(format!("the kernel sends it {via}dev {dev}"))
        }
        End::Local if answer.kind == LOCAL => None,
        End::Local => Some("the kernel does not take it for this node's".to_owned()),
        End::Special(kind) if special(answer.kind) == Some(*kind) => None,
        End::Nothing if special(answer.kind) == Some(Special::Unreachable) => None,
        End::Special(_) | End::Nothing if answer.kind == LOCAL => {
            Some("the kernel takes it for this node's".to_owned())
        }
        End::Special(_) | End::Nothing => {
            let dev = answer.oif.map(|ifindex| world.name(ifindex)).unwrap_or_default();
            Some(format!("the kernel sends it by table {} dev {dev}", answer.table))
        }
    }
}
