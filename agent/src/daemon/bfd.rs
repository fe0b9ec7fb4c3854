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

use super::{Agent, RETRY_EVERY};

/// A session: the peer, and the interface that it is bound to.
pub(super) type Session = (IpAddr, Option<String>);

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

    /// Whether no bfdd runs, which is no reason to tell anybody.
    fn is_absence(&self) -> bool {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, Self::Unreachable { cause, .. } if absent.contains(&cause.kind()))
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
            tracing::warn!(%error, "nothing is known of BFD sessions");
        }
        last = text;
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}

async fn listen(folder: &Path, out: &mpsc::Sender<BTreeSet<Session>>) -> Result<(), BfdError> {
    // Where there is no bfdd, zebra is not troubled.
    let bfdd = vty::Vty::connect(folder).await?;
    let bell = bell::Bell::connect(folder).await?;
    tracing::info!(by = bell.daemon(), "BFD sessions are heard of");
    let ended = tell(bfdd, bell, out).await;
    // Taken by nobody only where the agent ends.
    out.send(BTreeSet::new()).await.ok();
    ended
}

/// Ends well when nobody takes what is told.
async fn tell(
    mut bfdd: vty::Vty,
    mut bell: bell::Bell,
    out: &mpsc::Sender<BTreeSet<Session>>,
) -> Result<(), BfdError> {
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
        for (peer, interface) in failed.difference(&self.failed_sessions) {
            tracing::info!(%peer, ?interface, "a BFD session has failed");
        }
        self.failed_sessions = failed;
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
    }
}
