//! The agent's side of the control socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{MAX_REQUEST, Request, Response};

/// Clients that are served at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 8;

/// How long a client may keep silent, or not read, before it is dropped.
const IDLE: Duration = Duration::from_secs(30);

/// A request and the means to answer it.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Dropped without an answer, the client gets an error.
    pub reply: oneshot::Sender<Response>,
}

/// Accepts clients until it is dropped or `calls` is closed.
///
/// A client that sends nonsense gets an error and loses its connection; nothing a client does ends this future.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = calls.closed() => return,
        };
        match stream {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = client(stream, &calls).await {
                        tracing::debug!(%error, "control client gone");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // EMFILE and its kind: they last, so do not spin on them.
                tracing::warn!(%error, "control socket: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: UnixStream, calls: &mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_REQUEST);
        if timeout(IDLE, bounded.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let text =
                    format!("request not understood ({error}): are agent and command of the same version?");
                return send(&mut writer, &Response::Error(text)).await;
            }
        };
        send(&mut writer, &ask(request, calls).await).await?;
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (reply, answer) = oneshot::channel();
    match calls.send(Call { request, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}

fn stopping() -> Response {
    Response::Error("the agent is stopping: ask again when it runs".to_owned())
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    timeout(IDLE, writer.write_all(&line)).await?
}
