//! FRR's FPM (Forwarding Plane Manager) wire.
//!
//! zebra connects to an FPM server over TCP and sends it every route that it installs. This crate has the codec
//! without I/O ([`frame`], [`netlink`], [`protobuf`]), one typed model for both encodings ([`Update`]),
//! the replay state machine as a pure type ([`session`]), and a tokio server on top of them ([`server`]).
//!
//! What a consumer must know about zebra:
//!
//! - zebra sends all that it has on connect, without a begin or end marker and without deletes: mark and sweep.
//! - A [`Route`] replaces whatever was there for its key. Deletes carry the key only.
//! - Nexthop ids may dangle for a while or for ever: resolve lazily. A [`NexthopObject`] replaces the one of its id
//!   in place, and the routes that use it follow without a message of their own. Ids die with the session.
//! - Routes of protocol 2 (kernel, connected, local) come without reliable deletes: better taken from the kernel.
//! - zebra never tells that a link went down on some versions: watch links yourself.
//!
//! A consumer that keeps a table of what zebra says:
//!
//! ```no_run
//! use std::collections::HashMap;
//! use zebra_fpm::server::{Epoch, Event, Server, ServerOptions};
//! use zebra_fpm::{NexthopId, NexthopObject, Route, RouteKey, Update};
//!
//! # async fn consume() -> std::io::Result<()> {
//! let (_server, mut events) = Server::bind(([127, 0, 0, 1], 2620).into(), ServerOptions::default())?;
//! let mut routes: HashMap<RouteKey, (Epoch, Route)> = HashMap::new();
//! let mut nexthops: HashMap<NexthopId, NexthopObject> = HashMap::new();
//! while let Some(event) = events.recv().await {
//!     match event {
//!         Event::Connected { .. } => nexthops.clear(),
//!         Event::Updates { epoch, updates, .. } => {
//!             for update in updates {
//!                 match update {
//!                     Update::Route(route) => drop(routes.insert(route.key, (epoch, route))),
//!                     Update::RouteDel(route) => drop(routes.remove(&route.key)),
//!                     Update::Nexthop(object) => drop(nexthops.insert(object.id, object)),
//!                     Update::NexthopDel { id, .. } => drop(nexthops.remove(&id)),
//!                     _ => {}
//!                 }
//!             }
//!         }
//!         // Simplest policy: see `session::Feed` for one that survives a restart of zebra.
//!         Event::ReplayComplete { epoch, .. } => routes.retain(|_, (seen, _)| *seen == epoch),
//!         Event::Disconnected { reason, .. } => eprintln!("{reason}; its routes stay"),
//!         Event::Refused { peer, reason } => eprintln!("{peer} refused: {reason}"),
//!         Event::Superseded { old_peer, new_peer, .. } => eprintln!("{new_peer} took over from {old_peer}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Without the server, [`Decoder`] turns bytes from anywhere into updates; [`netlink::encode`] turns updates
//! into what zebra would have sent:
//!
//! ```
//! use zebra_fpm::frame::{Encoding, write_frame};
//! use zebra_fpm::{Decoder, NexthopId, Protocol, Route, RouteKey, TableId, Update, netlink};
//!
//! let key = RouteKey::new(TableId(5000), "100.64.1.0/24".parse()?);
//! let update = Update::Route(Route::by_nexthop(key, Protocol::BGP, NexthopId(15)));
//! let mut bytes = Vec::new();
//! write_frame(Encoding::Netlink, &mut bytes, |payload| netlink::encode(&update, 0, payload))?;
//!
//! let mut decoder = Decoder::new();
//! let mut updates = Vec::new();
//! decoder.frames().extend(&bytes);
//! while let Some(frame) = decoder.next_frame(&mut updates)? {
//!     assert_eq!((frame.offset, frame.unknown_attributes), (0, 0));
//! }
//! decoder.finish()?;
//! assert_eq!(updates, [update]);
//! assert_eq!(updates[0].to_string(), "100.64.1.0/24 table 5000 nhid 15 proto bgp metric 20");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The README and `examples/table.rs` show a consumer that survives restarts, and feedback to zebra.

mod codec;
mod display;
mod json;
mod queue;
mod types;
mod update;

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod frame;
pub mod netlink;
pub mod protobuf;
pub mod server;
pub mod session;

pub use codec::{Decoder, FrameInfo, PayloadError, StreamError, decode_frame};
pub use json::Record;
pub use types::{
    Family, IfIndex, Label, Metric, Mtu, NexthopId, Protocol, QpbProtocol, RouteKey, RouteKind, TableId,
    VrfId,
};
pub use update::{
    Encap, Flavors, GroupMember, Labels, Lsp, LspNexthop, Neighbor, Nexthop, NexthopBody, NexthopGroup,
    NexthopObject, RawMessage, Resilient, Route, RouteDel, Seg6Local, Seg6LocalAction, Target, Update,
};
