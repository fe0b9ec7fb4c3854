//! Watches: every event becomes a message to the hub, every new trouble too.

use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, watch as latest};

use super::node::Facts;
use super::trouble::Trouble;
use crate::api::{GROUP, NodeRoutingState};
use crate::intent::{Change, KINDS};

/// What the parts of the edge tell the hub.
#[derive(Debug)]
pub(super) enum Message {
    /// Something about an object that says what is wanted.
    Object(&'static str, Change),
    /// This node as listed or changed; `None`: it is not there.
    Node(Option<Box<Node>>),
    /// Networks of the cluster.
    Facts(Facts),
    /// What a node's agent says; only while this agent sums up.
    State(StateChange),
    /// A watch has failed in a new way, or works again.
    Trouble(&'static str, Option<Trouble>),
    /// The API server has taken a write.
    Reached,
}

/// What the watch of `NodeRoutingState` tells.
#[derive(Debug)]
pub(super) enum StateChange {
    Begin,
    Put(Box<NodeRoutingState>),
    End,
    Delete(String),
}

/// All watches of an agent.
pub(super) async fn follow(
    client: Client,
    node: String,
    leading: latest::Receiver<bool>,
    inbox: mpsc::Sender<Message>,
) {
    let kinds = KINDS.iter().map(|(kind, plural)| follow_kind(&client, kind, plural, inbox.clone()));
    tokio::join!(
        futures::future::join_all(kinds),
        follow_node(&client, &node, inbox.clone()),
        follow_states(&client, leading, inbox.clone()),
    );
}

/// Objects are taken as they come, not as types: one that this version cannot read must not end the watch of the others.
async fn follow_kind(client: &Client, kind: &'static str, plural: &str, inbox: mpsc::Sender<Message>) {
    let gvk = GroupVersionKind::gvk(GROUP, "v1alpha1", kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let value = |object: DynamicObject| serde_json::to_value(object).unwrap_or(Value::Null);
    tail(api, watcher::Config::default(), kind, inbox, move |event| {
        let change = match event {
            Event::Init => Change::Begin,
            Event::InitApply(object) => Change::Item(value(object)),
            Event::InitDone => Change::End,
            Event::Apply(object) => Change::Put(value(object)),
            Event::Delete(object) => Change::Delete(object.metadata.name.unwrap_or_default()),
        };
        Some(Message::Object(kind, change))
    })
    .await;
}

async fn follow_node(client: &Client, name: &str, inbox: mpsc::Sender<Message>) {
    let api = Api::<Node>::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut listed = None;
    tail(api, config, "Node", inbox, move |event| match event {
        Event::Init => {
            listed = None;
            None
        }
        Event::InitApply(node) => {
            listed = Some(Box::new(node));
            None
        }
        Event::InitDone => Some(Message::Node(listed.take())),
        Event::Apply(node) => Some(Message::Node(Some(Box::new(node)))),
        Event::Delete(_) => Some(Message::Node(None)),
    })
    .await;
}

/// Follows what all nodes say, for as long as this agent sums up.
async fn follow_states(client: &Client, mut leading: latest::Receiver<bool>, inbox: mpsc::Sender<Message>) {
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        let api = Api::<NodeRoutingState>::all(client.clone());
        let followed = tail(api, watcher::Config::default(), "NodeRoutingState", inbox.clone(), |event| {
            let change = match event {
                Event::Init => StateChange::Begin,
                Event::InitApply(state) | Event::Apply(state) => StateChange::Put(Box::new(state)),
                Event::InitDone => StateChange::End,
                Event::Delete(state) => StateChange::Delete(state.metadata.name.unwrap_or_default()),
            };
            Some(Message::State(change))
        });
        tokio::select! {
            () = followed => return,
            ended = leading.wait_for(|leading| !*leading) => if ended.is_err() { return },
        }
    }
}

/// Follows a watch for ever, with a pause that grows where it fails.
async fn tail<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
    inbox: mpsc::Sender<Message>,
    mut message: impl FnMut(Event<K>) -> Option<Message>,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let message = match event {
            Ok(event) => {
                if inbox.send(Message::Trouble(what, None)).await.is_err() {
                    return;
                }
                message(event)
            }
            Err(error) => {
                tracing::debug!(%error, what, "watch");
                Trouble::of_watch(what, &error).map(|trouble| Message::Trouble(what, Some(trouble)))
            }
        };
        if let Some(message) = message
            && inbox.send(message).await.is_err()
        {
            return;
        }
    }
}
