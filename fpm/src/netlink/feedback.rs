//! Feedback to zebra: a route forwards, or could not be programmed.
//!
//! zebra started with `--asic-offload=notify_on_offload` tells BGP that a route is installed only after this
//! (`fpm_read` in FRR's `zebra/dplane_fpm_nl.c`).

use super::encode::{encode_route, encode_route_head, message};
use super::wire::RTM_NEWROUTE;
use crate::frame::{Encoding, PayloadTooLong, write_frame};
use crate::update::Route;

/// `NLM_F_REQUEST`: zebra skips messages without it.
const REQUEST: u16 = 1;

/// Outcome of programming a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// `RTM_F_OFFLOAD`: the route forwards.
    Done,
    /// `RTM_F_OFFLOAD_FAILED`: it could not be programmed; BGP withdraws it if it was advertised.
    Failed,
}

impl Offload {
    fn flag(self) -> u32 {
        match self {
            Self::Done => 0x4000,
            Self::Failed => 0x2000_0000,
        }
    }
}

/// What zebra reads at a time (`FPM_INPUT_SIZE`, 8 KiB up to FRR 10.3): a longer frame ends the session.
const MAX_LEN: usize = 8192;

/// Appends a frame that tells zebra the outcome for one route: zebra reads one message of a frame only.
///
/// It is the route as zebra sent it, with the outcome in its flags. zebra finds its own by key, protocol and kind; FRR
/// 8.5 to 10.2 compare the nexthops too, and newer ones ignore them. Nexthops that would make the frame longer than zebra
/// can read are left out. Send it only after the kernel's acknowledgement, once for each
/// [`Update::Route`](crate::Update::Route).
///
/// # Errors
/// Never in fact: the frame has 8 KiB at most.
pub fn write_feedback(route: &Route, outcome: Offload, out: &mut Vec<u8>) -> Result<(), PayloadTooLong> {
    let start = out.len();
    let flags = route.flags | outcome.flag();
    let frame = |out: &mut Vec<u8>, whole: bool| {
        write_frame(Encoding::Netlink, out, |payload| {
            message(RTM_NEWROUTE, REQUEST, 0, payload, |w| {
                if whole {
                    encode_route(route, flags, w);
                } else {
                    let head = [route.protocol.0, route.scope, route.kind.to_wire()];
                    encode_route_head(w, &route.key, head, flags, route.metric);
                }
            });
        })
    };
    if frame(out, true).is_ok() && out.len() - start <= MAX_LEN {
        return Ok(());
    }
    out.truncate(start);
    frame(out, false)
}

/// Why a version of FRR cannot use feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackUnsupported {
    /// Before 8.5.
    #[error("FRR {0}.{1} ignores what an FPM server sends; FRR 8.5 to 10.2, or 10.4 and newer, does not")]
    Absent(u32, u32),
    /// 10.3.
    #[error("FRR 10.3 looks routes up in the wrong table, so that feedback never matches; fixed in FRR 10.4")]
    Broken,
}

/// Whether zebra of this version acts on feedback.
///
/// # Errors
/// If it does not.
pub fn feedback_support(major: u32, minor: u32) -> Result<(), FeedbackUnsupported> {
    match (major, minor) {
        (10, 3) => Err(FeedbackUnsupported::Broken),
        version if version < (8, 5) => Err(FeedbackUnsupported::Absent(major, minor)),
        _ => Ok(()),
    }
}
