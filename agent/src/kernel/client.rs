//! An asynchronous rtnetlink connection: single requests, and dumps that fit into memory.

use futures::StreamExt as _;
use netlink_packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket as _;
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::KernelError;
use super::wire::{HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, error_text};

/// How often a dump that the kernel flags as interrupted is taken again.
const ATTEMPTS: u32 = 10;

/// A connection and the task that drives it, which ends with it.
#[derive(Debug)]
pub(super) struct Client {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    /// Connects in the calling thread's network namespace. Must run inside a tokio runtime.
    pub(super) fn open() -> Result<Self, KernelError> {
        let failed = |doing| move |source| KernelError::Socket { doing, source };
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(failed("open"))?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_cap_ack(true).map_err(failed("set NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(failed("set NETLINK_EXT_ACK"))?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Sends one request and waits for its acknowledgement. `object` names it in errors.
    pub(super) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        object: impl Fn() -> String,
    ) -> Result<(), KernelError> {
        self.exchange(message, NLM_F_ACK | flags, &object).await.map(drop)
    }

    /// All objects of a kind, read again when the kernel says that they changed meanwhile.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        object: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        for _ in 0..ATTEMPTS {
            let (objects, whole) = self.exchange(message.clone(), NLM_F_DUMP, &|| object.to_owned()).await?;
            if whole {
                return Ok(objects);
            }
        }
        Err(KernelError::Interrupted { object: object.to_owned(), attempts: ATTEMPTS })
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        object: &impl Fn() -> String,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), KernelError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let ended = || KernelError::Socket {
            doing: "send a request",
            source: std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the connection has ended"),
        };
        let mut answers = self.handle.clone().request(request).map_err(|_| ended())?;
        let mut objects = Vec::new();
        let mut whole = true;
        while let Some(answer) = answers.next().await {
            whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => objects.push(message),
                NetlinkPayload::Error(error) => refusal(&error, object)?,
                _ => {}
            }
        }
        Ok((objects, whole))
    }
}

/// An error message as an error; an acknowledgement is none. With CAP_ACK the request's header is all that comes
/// before the kernel's words.
fn refusal(error: &ErrorMessage, object: &impl Fn() -> String) -> Result<(), KernelError> {
    let Some(code) = error.code else { return Ok(()) };
    let text = error.header.get(HEADER..).and_then(error_text).map(str::to_owned);
    Err(KernelError::Refused { object: object(), errno: code.get().wrapping_abs(), text })
}
