//! BFD sessions of FRR's bfdd: a gateway whose session has failed leaves its groups before any protocol has withdrawn a
//! route. When [`bell`] rings, [`vty`] says what has become of them.

mod bell;
mod vty;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::mpsc;

use self::bell::Bell;
use self::vty::Vty;
use super::{Agent, RETRY_EVERY};
use crate::model::Link;
use crate::plan::Links;

/// A BFD session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session {
    peer: IpAddr,
    /// The interface that it is bound to.
    interface: Option<String>,
    /// FRR's name for its VRF.
    vrf: Option<String>,
}

impl Session {
    /// Whether its peer is a neighbour on `link`. One that is bound to no interface stands for the peer on every link of its
    /// VRF whose networks it is in.
    fn is_by(&self, link: &Link, links: &Links) -> bool {
        if let Some(name) = &self.interface {
            return *name == link.name;
        }
        if !link.addresses.iter().any(|address| address.net.contains(&self.peer)) {
            return false;
        }
        let in_vrf = |vrf: &Link| link.master == Some(vrf.ifindex);
        let mut devices = links.values().filter(|link| link.vrf_table.is_some());
        // FRR's default VRF has no device, by whatever name.
        match devices.clone().find(|device| self.vrf.as_ref() == Some(&device.name)) {
            Some(vrf) => in_vrf(vrf),
            None => !devices.any(in_vrf),
        }
    }
}

/// FRR answers at once, or is as good as dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why FRR tells nothing of BFD sessions, or no more.
#[derive(Debug, thiserror::Error)]
enum BfdError {
    /// Nobody listens there, or not to this agent.
    #[error("cannot connect to {}: {cause}{}", socket.display(), remedy(cause))]
    Unreachable {
        /// FRR's socket.
        socket: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
    /// The connection has ended.
    #[error("{name} says no more: {cause}")]
    Ended {
        /// FRR's daemon.
        name: &'static str,
        /// What the kernel says, or that what was read makes no sense.
        cause: io::Error,
    },
    /// Not the protocol that is known.
    #[error("zebra does not speak as that of FRR 10.2 to 10.7 does: the agent must be newer")]
    UnknownZebra,
}

impl BfdError {
    fn ended(name: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Self::Ended { name, cause }
    }

    fn nonsense(name: &'static str, what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Ended { name, cause: io::Error::new(io::ErrorKind::InvalidData, what) }
    }

    /// Whether no FRR runs, which is no reason to tell anybody.
    fn is_absence(&self) -> bool {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, Self::Unreachable { cause, .. } if absent.contains(&cause.kind()))
    }

    /// Whether it is bfdd that is not there.
    fn is_of_bfdd(&self) -> bool {
        match self {
            Self::Unreachable { socket, .. } => socket.ends_with(vty::SOCKET),
            Self::Ended { name, .. } => *name == "bfdd",
            Self::UnknownZebra => false,
        }
    }
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; FRR's sockets are its own user's: add CAP_DAC_OVERRIDE",
        _ => "",
    }
}

async fn connect(socket: PathBuf) -> Result<UnixStream, BfdError> {
    match UnixStream::connect(&socket).await {
        Ok(stream) => Ok(stream),
        Err(cause) => Err(BfdError::Unreachable { socket, cause }),
    }
}

/// Tells which sessions have failed, now and whenever that changes, of the FRR whose sockets are in `folder`: for as long as
/// somebody takes it. While there is none, it is looked for, and none has failed.
pub(super) async fn follow(folder: PathBuf, out: mpsc::Sender<BTreeSet<Session>>) {
    let mut last = String::new();
    while !out.is_closed() {
        let Err(error) = listen(&folder, &out).await else { return };
        let text = error.to_string();
        if !error.is_absence() && text != last {
            tracing::warn!(%error, "no change of BFD sessions is heard of; looked again every {RETRY_EVERY:?}");
        }
        last = text;
        // zebra comes and goes without them.
        if error.is_of_bfdd() && out.send(BTreeSet::new()).await.is_err() {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}

/// Ends well when nobody takes what is told.
async fn listen(folder: &Path, out: &mpsc::Sender<BTreeSet<Session>>) -> Result<(), BfdError> {
    // Where there is no bfdd, zebra is not troubled; while there is no zebra, bfdd is heard all the same.
    let mut bfdd = Vty::connect(folder).await?;
    if out.send(bfdd.failed_sessions().await?).await.is_err() {
        return Ok(());
    }
    let bell = Bell::connect(folder).await?;
    tracing::info!(by = bell.daemon(), "BFD sessions are heard of");
    tell(bfdd, bell, out).await
}

/// Ends well when nobody takes what is told.
async fn tell(mut bfdd: Vty, mut bell: Bell, out: &mpsc::Sender<BTreeSet<Session>>) -> Result<(), BfdError> {
    loop {
        let failed = bfdd.failed_sessions().await?;
        // Nobody tells that a session which is down is taken out of the configuration.
        let may_go_unheard = !failed.is_empty();
        if out.send(failed).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            rung = bell.rung() => rung?,
            gone = bfdd.gone() => return Err(gone),
            () = out.closed() => return Ok(()),
            () = tokio::time::sleep(RETRY_EVERY), if may_go_unheard => {}
        }
    }
}

impl Agent {
    pub(super) fn on_bfd(&mut self, failed: BTreeSet<Session>) {
        if failed == self.failed_sessions {
            return;
        }
        for Session { peer, interface, vrf } in failed.difference(&self.failed_sessions) {
            tracing::info!(%peer, ?interface, ?vrf, "a BFD session has failed");
        }
        for Session { peer, interface, vrf } in self.failed_sessions.difference(&failed) {
            tracing::info!(%peer, ?interface, ?vrf, "a BFD session has failed no more");
        }
        self.failed_sessions = failed;
        self.judge_sessions(Instant::now());
    }

    /// Tells the engine which gateways have a BFD session that has failed.
    pub(super) fn judge_sessions(&mut self, now: Instant) {
        let links = self.observed.links();
        let paths: BTreeSet<(u32, IpAddr)> = links
            .values()
            .flat_map(|link| {
                let failed = self.failed_sessions.iter().filter(|session| session.is_by(link, links));
                failed.map(|session| (link.ifindex, session.peer))
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
    use crate::model::Address;

    #[test]
    fn a_session_is_of_its_interface_or_of_its_vrf() {
        let link = |ifindex, name: &str, vrf_table: Option<u32>, master| {
            let address = Address::plain("10.0.0.2/24".parse().unwrap());
            let addresses = if vrf_table.is_some() { Vec::new() } else { vec![address] };
            (ifindex, Link { vrf_table, master, addresses, ..Link::ethernet(ifindex, name) })
        };
        let links = Links::from_iter([
            link(1, "red", Some(10), None),
            link(2, "blue", Some(11), None),
            link(3, "eth0", None, None),
            link(4, "eth1", None, Some(1)),
            link(5, "eth2", None, Some(2)),
            link(6, "br0", None, None),
            link(7, "eth3", None, Some(6)),
        ]);
        for (peer, interface, vrf, by) in [
            ("10.0.0.1", Some("eth1"), Some("default"), &[4][..]),
            ("10.0.0.1", None, Some("red"), &[4]),
            ("10.0.0.1", None, Some("default"), &[3, 6, 7]),
            ("10.0.0.1", None, None, &[3, 6, 7]),
            ("10.0.1.1", None, Some("blue"), &[]),
        ] {
            let name = |name: Option<&str>| name.map(str::to_owned);
            let session = Session { peer: peer.parse().unwrap(), interface: name(interface), vrf: name(vrf) };
            let found = links.values().filter(|link| session.is_by(link, &links));
            assert_eq!(found.map(|link| link.ifindex).collect::<Vec<_>>(), by, "{session:?}");
        }
    }

    #[test]
    fn an_error_names_the_socket_and_what_helps() {
        let error = |kind: io::ErrorKind| BfdError::Unreachable {
            socket: "/run/frr/bfdd.vty".into(),
            cause: kind.into(),
        };
        let denied = error(io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("/run/frr/bfdd.vty"), "{denied}");
        assert!(denied.to_string().contains("CAP_DAC_OVERRIDE"), "{denied}");
        assert!(!denied.is_absence());
        assert!(error(io::ErrorKind::NotFound).is_absence());
        assert!(denied.is_of_bfdd());
        assert!(BfdError::nonsense("bfdd", "no answer").is_of_bfdd());
        assert!(!BfdError::nonsense("zebra", "the connection is closed").is_of_bfdd());
    }
}
