//! A proxy before the API server that behaves badly on demand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use backtrail_lab::Namespace;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{AuthInfo, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;

/// What the proxy does with every request, and with every watch that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Passes it on.
    Pass,
    /// Answers with this HTTP status; open watches end.
    Answer(u16),
    /// Passes it on after so long; open watches end.
    Slow(Duration),
    /// Answers one request with each of these in turn; 0: closes the connection without an answer.
    Mixed,
    /// Passes on all but watches, which end at once.
    NoWatch,
}

/// What [`Behaviour::Mixed`] answers with.
pub(crate) const MIX: [u16; 6] = [500, 429, 409, 403, 404, 0];

pub(crate) struct Proxy {
    pub(crate) url: String,
    behaviour: watch::Sender<Behaviour>,
    requests: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens in a namespace; `admin` is a kubeconfig of which address and authority are used.
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr, admin: &Path) -> Result<Self> {
        let mut kubeconfig = Kubeconfig::read_from(admin)?;
        for user in &mut kubeconfig.auth_infos {
            // Requests carry the agent's own token.
            user.auth_info = Some(AuthInfo::default());
        }
        let (behaviour, follow) = watch::channel(Behaviour::Pass);
        let requests = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&requests);
        let listener = namespace.enter(|| std::net::TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        // Its connections to the API server are opened by threads of the namespace.
        let (ready_in, ready) = std::sync::mpsc::channel();
        namespace.enter(|| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let run = async {
                    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
                    let client = Client::try_from(config)?;
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    ready_in.send(()).ok();
                    serve(listener, client, follow, count).await;
                    anyhow::Ok(())
                };
                if let Err(error) = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run)) {
                    eprintln!("proxy: {error:#}");
                }
            });
        })?;
        ready.recv().context("the proxy does not start")?;
        Ok(Self { url: format!("http://{address}"), behaviour, requests })
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    client: Client,
    follow: watch::Receiver<Behaviour>,
    count: Arc<AtomicU64>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (client, mut follow, count) = (client.clone(), follow.clone(), Arc::clone(&count));
        tokio::spawn(async move {
            let answers = follow.clone();
            let service = service_fn(|request| {
                let turn = count.fetch_add(1, Ordering::Relaxed);
                answer(client.clone(), answers.clone(), turn, request)
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            follow.borrow_and_update();
            tokio::select! {
                _ = connection => {}
                // What is open ends with every change: so do watches.
                _ = follow.changed() => {}
            }
        });
    }
}

type Answer = Response<Either<Full<Bytes>, Body>>;

async fn answer(
    client: Client,
    behaviour: watch::Receiver<Behaviour>,
    turn: u64,
    request: Request<Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let now = *behaviour.borrow();
    let is_watch =
        request.uri().query().is_some_and(|query| query.contains("watch=true") || query.contains("watch=1"));
    match now {
        Behaviour::Answer(code) => return Ok(refusal(code)),
        Behaviour::Mixed => {
            let code = MIX[usize::try_from(turn).unwrap_or(0) % MIX.len()];
            return if code == 0 { Err("hung up".into()) } else { Ok(refusal(code)) };
        }
        Behaviour::NoWatch if is_watch => return Err("no watch".into()),
        Behaviour::Slow(time) => tokio::time::sleep(time).await,
        Behaviour::Pass | Behaviour::NoWatch => {}
    }
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    parts.headers.remove(hyper::header::HOST);
    parts.version = hyper::Version::HTTP_11;
    let response = client.send(Request::from_parts(parts, Body::from(body.to_vec()))).await?;
    let (parts, body) = response.into_parts();
    let mut response = Response::from_parts(parts, Either::Right(body));
    // The connection to the client is another one.
    response.headers_mut().remove(hyper::header::TRANSFER_ENCODING);
    *response.version_mut() = hyper::Version::HTTP_11;
    Ok(response)
}

/// As an API server refuses.
fn refusal(code: u16) -> Answer {
    let text = format!(
        "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"by the proxy\",\"reason\":\"Test\",\"code\":{code}}}"
    );
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() =
        hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
