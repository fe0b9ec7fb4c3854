//! A scrape endpoint: the little of HTTP/1.1 (RFC 9112) that Prometheus needs.
//!
//! `GET /metrics` gets the page, `GET /healthz` gets `ok` from an agent that works through its events, `GET /readyz` gets 503
//! until its first pass over the kernel has ended; one request a connection. Anything else gets an error.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Metrics;

/// Connections that are served at once.
const MAX_CLIENTS: usize = 8;

/// Bytes that a request's head may have.
const MAX_HEAD: usize = 8 * 1024;

/// How long a client may take for its request, and again for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Media type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves scrapes until it is dropped. Nothing a client does ends it.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    if let Err(error) = client(stream, &metrics).await {
                        tracing::debug!(%error, "metrics client gone");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // EMFILE and its kind: they last, so do not spin on them.
                tracing::warn!(%error, "metrics: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(mut stream: TcpStream, metrics: &Metrics) -> std::io::Result<()> {
    let head = timeout(PATIENCE, head(&mut stream)).await??;
    let (status, media, body) = answer(&head, metrics);
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    timeout(PATIENCE, async {
        stream.write_all(response.as_bytes()).await?;
        if !head.starts_with(b"HEAD ") {
            stream.write_all(body.as_bytes()).await?;
        }
        stream.shutdown().await
    })
    .await?
}

/// Reads up to the empty line that ends the head; an overlong or unfinished head is returned as far as it came.
async fn head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

fn answer(head: &[u8], metrics: &Metrics) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !words.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return ("400 Bad Request", TEXT, "not an HTTP/1.1 request\n".to_owned());
    }
    if method != b"GET" && method != b"HEAD" {
        return ("405 Method Not Allowed", TEXT, "only GET and HEAD\n".to_owned());
    }
    match target.split(|byte| *byte == b'?').next().unwrap_or_default() {
        b"/metrics" => ("200 OK", OPENMETRICS, metrics.encode()),
        b"/healthz" => ("200 OK", TEXT, "ok\n".to_owned()),
        b"/readyz" if metrics.status.ready.get() == 1 => ("200 OK", TEXT, "ok\n".to_owned()),
        b"/readyz" => {
            ("503 Service Unavailable", TEXT, "the first pass over the kernel has not ended\n".to_owned())
        }
        _ => ("404 Not Found", TEXT, "metrics are at /metrics\n".to_owned()),
    }
}
