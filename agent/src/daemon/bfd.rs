//! BFD sessions, as FRR's bfdd tells of them over its control socket (FRR's bfdd/bfdctl.h): a gateway whose session has
//! failed leaves its groups before any protocol has withdrawn a route.
//!
//! FRR 10.2 has removed that socket. With newer ones a gateway that has a neighbour entry and does not forward is known by
//! the protocols' word alone.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{Agent, RETRY_EVERY};

/// Name of the socket in FRR's run directory.
pub(super) const SOCKET: &str = "bfdd.sock";

/// `struct bfd_control_msg`, big endian: length of the payload (32 bits), id (16), type and version (8 each).
const HEADER: usize = 8;
/// `BMT_NOTIFY`
const NOTIFY: u8 = 4;
/// `BMV_VERSION_1`
const VERSION: u8 = 1;
/// Bytes of the longest message that is read: bfdd's have a few hundred.
const MAX_MESSAGE: usize = 64 * 1024;

/// Diagnostics of RFC 5880, 4.1.
const NO_DIAGNOSTIC: u8 = 0;
const NEIGHBOR_SIGNALED_DOWN: u8 = 3;
const ADMINISTRATIVELY_DOWN: u8 = 7;

/// A session: the peer, and the interface that it is bound to.
pub(super) type Session = (IpAddr, Option<String>);

/// What bfdd tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// A session has failed, or no longer has.
    Session(Session, bool),
    /// bfdd is gone: nothing is known of any.
    Nothing,
}

/// A message's payload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Message {
    #[serde(default)]
    op: String,
    #[serde(default)]
    multihop: bool,
    peer_address: IpAddr,
    local_interface: Option<String>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    diagnostics: u8,
    #[serde(default)]
    remote_diagnostics: u8,
}

/// The meaning of a payload; `None` for what says nothing about a gateway.
fn decode(payload: &[u8]) -> Option<Told> {
    let message: Message = serde_json::from_slice(payload).ok()?;
    // A peer that is several hops away is no gateway.
    if message.multihop {
        return None;
    }
    let failed = match (message.op.as_str(), message.state.as_str()) {
        ("status", "down") => has_failed(&message),
        ("status", "up" | "adm-down" | "shutdown") | ("delete", _) => false,
        _ => return None,
    };
    Some(Told::Session((message.peer_address, message.local_interface), failed))
}

/// Whether a session that is down was up before, and nobody took it down on purpose (RFC 5882, 3.2 and 4.2). A neighbour
/// that took it down, or has just started, says so without a reason of its own.
fn has_failed(message: &Message) -> bool {
    match message.diagnostics {
        NO_DIAGNOSTIC | ADMINISTRATIVELY_DOWN => false,
        NEIGHBOR_SIGNALED_DOWN => {
            !matches!(message.remote_diagnostics, NO_DIAGNOSTIC | ADMINISTRATIVELY_DOWN)
        }
        _ => true,
    }
}

/// Listens to bfdd for as long as somebody takes what it tells; while there is none, it is looked for.
pub(super) async fn follow(socket: PathBuf, out: mpsc::Sender<Told>) {
    loop {
        if let Ok(stream) = UnixStream::connect(&socket).await {
            let ended = listen(stream, &out).await;
            tracing::info!(socket = %socket.display(), ?ended, "bfdd tells no more of BFD sessions");
            if out.send(Told::Nothing).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}

async fn listen(mut stream: UnixStream, out: &mpsc::Sender<Told>) -> io::Result<()> {
    stream.write_all(&subscription()).await?;
    tracing::info!("bfdd tells of BFD sessions");
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let [l0, l1, l2, l3, _, _, kind, _] = header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let told = (kind == NOTIFY).then(|| decode(&payload)).flatten();
        if let Some(told) = told
            && out.send(told).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Asks for the state of all sessions, and to be told of every change: `BCM_NOTIFY_ALL`.
fn subscription() -> Vec<u8> {
    let flags = u64::MAX.to_be_bytes();
    let length = u32::try_from(flags.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &[0, 1, NOTIFY, VERSION], &flags].concat()
}

impl Agent {
    pub(super) fn on_bfd(&mut self, told: Told) {
        match told {
            Told::Session(session, true) => {
                tracing::info!(peer = %session.0, interface = ?session.1, "a BFD session has failed");
                self.failed_sessions.insert(session);
            }
            Told::Session(session, false) => drop(self.failed_sessions.remove(&session)),
            Told::Nothing => self.failed_sessions.clear(),
        }
        self.judge_sessions(Instant::now());
    }

    /// Tells the engine which gateways have a BFD session that has failed. One that is bound to no interface stands for the
    /// peer on every link whose networks it is in.
    pub(super) fn judge_sessions(&mut self, now: Instant) {
        let links = self.observed.links();
        let paths: BTreeSet<(u32, IpAddr)> = links
            .values()
            .flat_map(|link| {
                let failed = self.failed_sessions.iter().filter(move |(peer, interface)| {
                    let near = || link.addresses.iter().any(|address| address.net.contains(peer));
                    interface.as_ref().map_or_else(near, |name| *name == link.name)
                });
                failed.map(|(peer, _)| (link.ifindex, *peer))
            })
            .collect();
        self.todo.plan |= !self.engine.plan().watched_gateways.is_empty();
        if self.engine.sessions_failed(&paths, now) {
            self.failover_since.get_or_insert(now);
            self.pump();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As bfdd of FRR 8.4 sent it.
    fn status(state: &str, ours: u8, remote: u8) -> String {
        format!(
            r#"{{"op":"status","ipv6":false,"multihop":false,"peer-address":"10.9.0.2","local-address":"10.9.0.1","local-interface":"va","id":1240831427,"remote-id":1240831427,"state":"{state}","downtime":0,"diagnostics":{ours},"remote-diagnostics":{remote}}}"#
        )
    }

    #[test]
    fn a_session_has_failed_when_it_was_up_and_nobody_took_it_down() {
        let session = || ("10.9.0.2".parse().unwrap(), Some("va".to_owned()));
        for (state, ours, remote, failed) in [
            ("down", 1, 0, Some(true)),
            ("down", 3, 1, Some(true)),
            ("down", 5, 0, Some(true)),
            ("down", 0, 0, Some(false)),
            ("down", 3, 0, Some(false)),
            ("down", 3, 7, Some(false)),
            ("down", 7, 0, Some(false)),
            ("up", 0, 1, Some(false)),
            ("adm-down", 7, 0, Some(false)),
            ("init", 1, 0, None),
        ] {
            let told = decode(status(state, ours, remote).as_bytes());
            assert_eq!(
                told,
                failed.map(|failed| Told::Session(session(), failed)),
                "{state} {ours} {remote}"
            );
        }
    }

    #[test]
    fn what_is_no_gateway_or_no_state_says_nothing() {
        let down = status("down", 1, 0);
        for (from, to, told) in [
            ("\"multihop\":false", "\"multihop\":true", None),
            ("\"status\"", "\"update\"", None),
            ("10.9.0.2", "somewhere", None),
            ("\"status\"", "\"delete\"", Some(false)),
        ] {
            let told_now = decode(down.replace(from, to).as_bytes());
            let failed = told_now.map(|told| matches!(told, Told::Session(_, true)));
            assert_eq!(failed, told, "{to}");
        }
        let unbound = down.replace("\"local-interface\":\"va\",", "");
        assert_eq!(
            decode(unbound.as_bytes()),
            Some(Told::Session(("10.9.0.2".parse().unwrap(), None), true))
        );
        assert_eq!(decode(b"{\"status\":\"ok\"}"), None);
    }
}
