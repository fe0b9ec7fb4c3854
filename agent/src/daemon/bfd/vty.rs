//! bfdd's command line, by which it says which sessions have failed, and why (FRR's lib/vty.c, bfdd/bfdd_vty.c).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{BfdError, PATIENCE, Session, connect};

/// Name of the socket in FRR's run directory.
pub(super) const SOCKET: &str = "bfdd.vty";

/// Bytes of the longest list of sessions that is read: one has less than two thousand.
const MAX_ANSWER: u64 = 64 << 20;

/// A connection as vtysh has it: a command ends with a NUL, an answer with three and the command's result.
#[derive(Debug)]
pub(super) struct Vty(BufReader<UnixStream>);

impl Vty {
    pub(super) async fn connect(folder: &Path) -> Result<Self, BfdError> {
        let mut vty = Self(BufReader::new(connect(folder.join(SOCKET)).await?));
        vty.run("enable").await?;
        Ok(vty)
    }

    pub(super) async fn failed_sessions(&mut self) -> Result<BTreeSet<Session>, BfdError> {
        let answer = self.run("show bfd peers json").await?;
        let peers: Vec<Peer> =
            serde_json::from_slice(&answer).map_err(|error| BfdError::nonsense("bfdd", error))?;
        let failed = peers.into_iter().filter(Peer::has_failed);
        Ok(failed.map(|Peer { peer, interface, vrf, .. }| Session { peer, interface, vrf }).collect())
    }

    async fn run(&mut self, command: &str) -> Result<Vec<u8>, BfdError> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(command));
        answer.await.map_err(|_| BfdError::nonsense("bfdd", "no answer"))?
    }

    async fn exchange(&mut self, command: &str) -> Result<Vec<u8>, BfdError> {
        let ended = BfdError::ended("bfdd");
        let line = [command.as_bytes(), &[0]].concat();
        self.0.get_mut().write_all(&line).await.map_err(&ended)?;
        let mut answer = Vec::new();
        (&mut self.0).take(MAX_ANSWER).read_until(0, &mut answer).await.map_err(&ended)?;
        if answer.pop() != Some(0) {
            return Err(BfdError::nonsense("bfdd", "an answer has no end"));
        }
        let mut rest = [0; 3];
        self.0.read_exact(&mut rest).await.map_err(&ended)?;
        match rest {
            [0, 0, 0] => Ok(answer),
            [.., result] => {
                Err(BfdError::nonsense("bfdd", format!("it answers \"{command}\" with {result}")))
            }
        }
    }

    /// Waits for its end; may be dropped at any time. It says nothing unasked.
    pub(super) async fn gone(&mut self) -> BfdError {
        match self.0.fill_buf().await {
            Err(cause) => BfdError::Ended { name: "bfdd", cause },
            Ok([]) => BfdError::nonsense("bfdd", "the connection is closed"),
            Ok(_) => BfdError::nonsense("bfdd", "it speaks unasked"),
        }
    }
}

/// A session, as bfdd lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Peer {
    #[serde(default)]
    multihop: bool,
    peer: IpAddr,
    interface: Option<String>,
    vrf: Option<String>,
    status: String,
    #[serde(default)]
    diagnostic: String,
    #[serde(default)]
    remote_diagnostic: String,
}

impl Peer {
    /// Whether it is not up but was before, and nobody took it down on purpose (RFC 5882, 3.2 and 4.2). A neighbour that
    /// took it down, or has just started, says so without a reason of its own. A peer several hops away is no gateway.
    fn has_failed(&self) -> bool {
        use Diagnostic::{AdministrativelyDown, Failure, NeighborSignaledDown, None};
        let down = matches!(self.status.as_str(), "down" | "init");
        let why = (Diagnostic::new(&self.diagnostic), Diagnostic::new(&self.remote_diagnostic));
        down && !self.multihop
            && match why {
                (Failure, _) => true,
                (NeighborSignaledDown, remote) => !matches!(remote, None | AdministrativelyDown),
                (None | AdministrativelyDown, _) => false,
            }
    }
}

/// Who made a session's last change of state, as far as it matters: diagnostics of RFC 5880, 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Diagnostic {
    None,
    NeighborSignaledDown,
    AdministrativelyDown,
    Failure,
}

impl Diagnostic {
    /// From bfdd's words.
    fn new(text: &str) -> Self {
        match text {
            "" | "ok" => Self::None,
            "neighbor signaled session down" => Self::NeighborSignaledDown,
            "administratively down" => Self::AdministrativelyDown,
            _ => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As bfdd of FRR 10.3 lists it.
    fn listed(status: &str, ours: &str, remote: &str) -> String {
        format!(
            r#"{{"multihop":false,"peer":"198.18.0.1","vrf":"default","interface":"up0","id":1519474921,"remote-id":0,"passive-mode":false,"status":"{status}","downtime":3,"diagnostic":"{ours}","remote-diagnostic":"{remote}","type":"configured","receive-interval":300}}"#
        )
    }

    fn failed(text: &str) -> bool {
        serde_json::from_str::<Peer>(text).unwrap().has_failed()
    }

    #[test]
    fn sessions_that_failed_are_told_from_those_that_are_down() {
        let expired = "control detection time expired";
        for (status, ours, remote, expected) in [
            ("down", expired, "ok", true),
            ("init", expired, "ok", true),
            ("down", "neighbor signaled session down", expired, true),
            ("down", "path down", "administratively down", true),
            ("down", "ok", "ok", false),
            ("down", "ok", expired, false),
            ("down", "neighbor signaled session down", "ok", false),
            ("down", "neighbor signaled session down", "administratively down", false),
            ("up", expired, "ok", false),
            ("shutdown", "administratively down", "ok", false),
        ] {
            assert_eq!(failed(&listed(status, ours, remote)), expected, "{status}, {ours}, {remote}");
        }
        let down = listed("down", expired, "ok");
        assert!(!failed(&down.replace("\"multihop\":false", "\"multihop\":true")));
    }

    #[tokio::test]
    async fn bfdd_is_asked_as_vtysh_does() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut vty = Vty(BufReader::new(ours));
        let mut bfdd = BufReader::new(theirs);
        let answer = |text: &str, result: u8| [text.as_bytes(), &[0, 0, 0, result]].concat();
        let list = format!("[{}]\n", listed("down", "path down", "ok"));
        for (answer, told) in [
            (answer(&list, 0), Some(1)),
            (answer("[]", 0), Some(0)),
            (answer("% Unknown command", 2), None),
            (answer("no list", 0), None),
        ] {
            let asked = async {
                let mut command = Vec::new();
                bfdd.read_until(0, &mut command).await.unwrap();
                assert_eq!(command, b"show bfd peers json\0");
                bfdd.get_mut().write_all(&answer).await.unwrap();
            };
            let (sessions, ()) = tokio::join!(vty.failed_sessions(), asked);
            assert_eq!(sessions.ok().map(|sessions| sessions.len()), told);
        }
        drop(bfdd);
        assert!(vty.gone().await.to_string().contains("closed"));
        assert!(vty.failed_sessions().await.is_err());
    }
}
