//! Who tells that the state of some session has changed: bfdd itself up to FRR 10.1 (FRR's bfdd/bfdctl.h), zebra from 10.2
//! on (ZAPI: FRR's lib/zclient.h and zebra/zebra_ptm.c).

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{BfdError, PATIENCE, connect};

/// bfdd's socket for this, which FRR 10.2 has removed.
const CONTROL: &str = "bfdd.sock";
/// zebra's socket for its clients.
const ZSERV: &str = "zserv.api";

/// Type of the message by which bfdd is asked for notifications, and of those: `BMT_NOTIFY`.
const NOTIFY: u16 = 4;
/// `BMV_VERSION_1`
const CONTROL_VERSION: u8 = 1;

/// Commands of FRR 10.0 to 10.7. They are counted, and move when FRR removes one: to a zebra that does not answer
/// [`HELLO`] with [`CAPABILITIES`] nothing else is said.
const HELLO: u16 = 19;
const CAPABILITIES: u16 = 20;
const INTERFACE_BFD_DEST_UPDATE: u16 = 26;
const BFD_CLIENT_REGISTER: u16 = 36;
const ZAPI_MARKER: u8 = 254;
const ZAPI_VERSION: u8 = 6;

/// zebra tells of BFD only whom it takes for one of the daemons that use it, and removes their routes when they leave. pimd
/// makes no routes, and none has this instance.
const PROTOCOL_PIM: u8 = 11;
const INSTANCE: u16 = 0xb7b7;
/// bfdd tells its users apart by their process ids; no kernel gives such a one (`PID_MAX_LIMIT`).
const PROCESS: u32 = 0x4000_0000;

/// Bytes of the longest message: those of both have a few hundred.
const MAX_MESSAGE: usize = 64 * 1024;

/// How messages begin; all is big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// `struct bfd_control_msg`: length of the payload (32 bits), id (16), type and version (8 each).
    Control,
    /// `struct zmsghdr`: length with this header (16 bits), marker and version (8 each), VRF (32), command (16).
    Zapi,
}

impl Protocol {
    fn daemon(self) -> &'static str {
        match self {
            Self::Control => "bfdd",
            Self::Zapi => "zebra",
        }
    }

    fn message(self, kind: u16, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Control => {
                let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
                let [_, kind] = kind.to_be_bytes();
                [&length[..], &[0, 1, kind, CONTROL_VERSION], payload].concat()
            }
            Self::Zapi => {
                let length = u16::try_from(10 + payload.len()).unwrap_or_default().to_be_bytes();
                [&length[..], &[ZAPI_MARKER, ZAPI_VERSION], &[0; 4], &kind.to_be_bytes(), payload].concat()
            }
        }
    }

    /// Length of the first message in bytes, and its type or command; `None` while its header is not complete.
    fn header(self, received: &[u8]) -> Result<Option<(usize, u16)>, BfdError> {
        let (length, kind) = match (self, received) {
            (Self::Control, &[l0, l1, l2, l3, _, _, kind, _, ..]) => {
                (8 + u32::from_be_bytes([l0, l1, l2, l3]) as usize, u16::from(kind))
            }
            (Self::Zapi, &[l0, l1, marker, version, _, _, _, _, c0, c1, ..]) => {
                if marker != ZAPI_MARKER || version != ZAPI_VERSION {
                    return Err(BfdError::UnknownZebra);
                }
                (usize::from(u16::from_be_bytes([l0, l1])).max(10), u16::from_be_bytes([c0, c1]))
            }
            _ => return Ok(None),
        };
        if length > MAX_MESSAGE {
            return Err(BfdError::nonsense(self.daemon(), "a message is too long"));
        }
        Ok(Some((length, kind)))
    }
}

/// A connection over which changes are told.
#[derive(Debug)]
pub(super) struct Bell {
    protocol: Protocol,
    stream: UnixStream,
    received: Vec<u8>,
}

impl Bell {
    /// Connects to whichever of both there is.
    pub(super) async fn connect(folder: &Path) -> Result<Self, BfdError> {
        let (protocol, stream) = match connect(folder.join(CONTROL)).await {
            // The file may have outlived an older bfdd.
            Err(error) if error.is_absence() => (Protocol::Zapi, connect(folder.join(ZSERV)).await?),
            found => (Protocol::Control, found?),
        };
        let mut bell = Self { protocol, stream, received: Vec::new() };
        match protocol {
            // `BCM_NOTIFY_ALL`
            Protocol::Control => bell.send(NOTIFY, &u64::MAX.to_be_bytes()).await?,
            Protocol::Zapi => {
                let greeted = tokio::time::timeout(PATIENCE, bell.greet_zebra());
                greeted.await.map_err(|_| BfdError::UnknownZebra)??;
            }
        }
        Ok(bell)
    }

    /// Who tells.
    pub(super) fn daemon(&self) -> &'static str {
        self.protocol.daemon()
    }

    async fn greet_zebra(&mut self) -> Result<(), BfdError> {
        let hello = [&[PROTOCOL_PIM][..], &INSTANCE.to_be_bytes(), &[0; 5]].concat();
        self.send(HELLO, &hello).await?;
        self.wait_for(CAPABILITIES).await?;
        // Otherwise zebra writes an error into its log when the agent ends.
        self.send(BFD_CLIENT_REGISTER, &(PROCESS | std::process::id()).to_be_bytes()).await
    }

    async fn send(&mut self, kind: u16, payload: &[u8]) -> Result<(), BfdError> {
        let message = self.protocol.message(kind, payload);
        self.stream.write_all(&message).await.map_err(BfdError::ended(self.daemon()))
    }

    /// Waits until some session has changed; may be dropped at any time.
    pub(super) async fn rung(&mut self) -> Result<(), BfdError> {
        self.wait_for(match self.protocol {
            Protocol::Control => NOTIFY,
            Protocol::Zapi => INTERFACE_BFD_DEST_UPDATE,
        })
        .await
    }

    /// Takes whatever has arrived, until one of such messages has.
    async fn wait_for(&mut self, kind: u16) -> Result<(), BfdError> {
        loop {
            let mut found = false;
            while let Some(next) = self.take()? {
                found |= next == kind;
            }
            if found {
                return Ok(());
            }
            let ended = BfdError::ended(self.daemon());
            if self.stream.read_buf(&mut self.received).await.map_err(ended)? == 0 {
                return Err(BfdError::nonsense(self.daemon(), "the connection is closed"));
            }
        }
    }

    /// Type or command of the first message, which is taken; `None` while it is not complete.
    fn take(&mut self) -> Result<Option<u16>, BfdError> {
        let Some((length, kind)) = self.protocol.header(&self.received)? else { return Ok(None) };
        if self.received.len() < length {
            return Ok(None);
        }
        self.received.drain(..length);
        Ok(Some(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bell(protocol: Protocol) -> (Bell, UnixStream) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        (Bell { protocol, stream, received: Vec::new() }, theirs)
    }

    #[tokio::test]
    async fn a_socket_that_an_older_bfdd_left_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(CONTROL)).unwrap());
        let zebra = tokio::net::UnixListener::bind(folder.path().join(ZSERV)).unwrap();
        let greeted = async {
            let (mut stream, _) = zebra.accept().await.unwrap();
            stream.write_all(&Protocol::Zapi.message(CAPABILITIES, &[0; 9])).await.unwrap();
            stream
        };
        let (bell, _stream) = tokio::join!(Bell::connect(folder.path()), greeted);
        assert_eq!(bell.unwrap().daemon(), "zebra");
    }

    #[tokio::test]
    async fn messages_are_taken_whole_and_one_by_one() {
        for protocol in [Protocol::Control, Protocol::Zapi] {
            let (mut bell, _theirs) = bell(protocol);
            let stream = [protocol.message(20, &[1, 2, 3]), protocol.message(4, &[])].concat();
            let mut kinds = Vec::new();
            for byte in stream {
                bell.received.push(byte);
                kinds.extend(bell.take().unwrap());
            }
            assert_eq!(kinds, [20, 4]);
            assert!(bell.received.is_empty());
        }
    }

    #[tokio::test]
    async fn only_changes_ring() {
        let (mut bell, mut theirs) = bell(Protocol::Zapi);
        let update = Protocol::Zapi.message(INTERFACE_BFD_DEST_UPDATE, &[0; 20]);
        theirs.write_all(&Protocol::Zapi.message(CAPABILITIES, &[0; 9])).await.unwrap();
        theirs.write_all(&update[..9]).await.unwrap();
        tokio::select! {
            biased;
            _ = bell.rung() => panic!("nothing has changed"),
            () = tokio::task::yield_now() => {}
        }
        theirs.write_all(&[&update[9..], &update[..]].concat()).await.unwrap();
        bell.rung().await.unwrap();
        assert!(bell.received.is_empty(), "several changes ring once");
        drop(theirs);
        assert!(bell.rung().await.unwrap_err().to_string().contains("closed"));
    }

    #[tokio::test]
    async fn another_protocol_is_not_read() {
        for (place, wrong) in [(2, 255), (3, 5)] {
            let (mut bell, _theirs) = bell(Protocol::Zapi);
            bell.received = Protocol::Zapi.message(HELLO, &[]);
            bell.received[place] = wrong;
            assert!(matches!(bell.take(), Err(BfdError::UnknownZebra)), "{place}");
        }
        let (mut bell, _theirs) = bell(Protocol::Control);
        bell.received = vec![0xff; 8];
        assert!(bell.take().is_err(), "a message of 4 GiB");
    }
}
