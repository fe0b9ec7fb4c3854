//! Writes this node's `NodeRoutingState`: when something changed, not too often, and now and then as a heartbeat.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject, Patch};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch as latest};

use super::Snapshot;
use super::apply::Applier;
use super::events::Herald;
use super::pace::{Pace, Pacer};
use super::trouble::Trouble;
use super::watch::Message;
use crate::api::{API_VERSION, NodeRoutingState, NodeRoutingStateStatus};
use crate::control::{Call, Request, Response};

/// The longest pause after a late answer, in looks.
const LOOKS_LEFT_OUT: u32 = 15;
/// Longest field manager that an API server takes, bytes.
const MAX_MANAGER: usize = 128;

/// Runs until the daemon is gone.
pub(super) async fn run(
    client: Client,
    node: String,
    calls: mpsc::Sender<Call>,
    snapshots: latest::Receiver<Snapshot>,
    inbox: mpsc::Sender<Message>,
    pace: Pace,
) {
    let mut writer = Writer::new(client, node, &pace);
    let mut pacer = Pacer::new(Instant::now());
    let mut told: Option<Trouble> = None;
    let mut pause = pace.look;
    loop {
        tokio::time::sleep(pause).await;
        // Before that neither the owner of the state is known nor what is wanted of the node.
        if !snapshots.borrow().answered {
            continue;
        }
        let began = Instant::now();
        let Some(status) = ask(&calls).await else { return };
        let now = Instant::now();
        pause = pause_after(now - began, &pace);
        let Some(mut status) = status else { continue };
        let essence = essence(&status);
        if !pacer.due(now, &essence) {
            continue;
        }
        status.agent.heartbeat = Some(Time(jiff::Timestamp::now()));
        let owner = snapshots.borrow().node.as_ref().map(|node| node.uid.clone());
        match writer.write(&status, owner).await {
            Ok(()) => {
                pacer.done(Instant::now(), essence, &pace);
                told = None;
                if inbox.send(Message::Reached).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                pacer.failed(Instant::now(), &pace);
                let trouble = Trouble::of("NodeRoutingState", &error);
                if trouble.is_some() && trouble != told {
                    tracing::warn!(%error, "the node's state cannot be written; it is tried again");
                    told = trouble;
                }
            }
        }
    }
}

/// Until the next look, after one that took so long. Counting a million routes takes a while: a fiftieth of the daemon's time
/// may go into it. An answer may also be late because the daemon, or this thread, has other work, so the pause has an end.
fn pause_after(took: Duration, pace: &Pace) -> Duration {
    (took * 50).clamp(pace.look, pace.look * LOOKS_LEFT_OUT)
}

/// The daemon's status; `Some(None)`: it could not tell, `None`: it is gone.
async fn ask(calls: &mpsc::Sender<Call>) -> Option<Option<Box<NodeRoutingStateStatus>>> {
    let (reply, answer) = oneshot::channel();
    calls.send(Call { request: Request::Status, reply }).await.ok()?;
    match answer.await {
        Ok(Response::Status(status)) => Some(Some(status)),
        _ => Some(None),
    }
}

/// What is worth a write: everything but times and the counters of packets and flows.
pub(super) fn essence(status: &NodeRoutingStateStatus) -> Value {
    let mut value = json!(status);
    let drop = |value: &mut Value, field: &str| {
        value.as_object_mut().map(|fields| fields.remove(field));
    };
    drop(&mut value["agent"], "heartbeat");
    drop(&mut value["fpm"], "lastMessage");
    for (list, field) in [("interfaces", "counters"), ("maps", "entries")] {
        for item in value["returnPath"][list].as_array_mut().into_iter().flatten() {
            drop(item, field);
        }
    }
    value
}

struct Writer {
    api: Api<DynamicObject>,
    herald: Herald,
    applier: Applier,
    node: String,
    /// The owner that the object has, once that is known.
    owned_by: Option<String>,
    written: Option<NodeRoutingStateStatus>,
}

impl Writer {
    fn new(client: Client, node: String, pace: &Pace) -> Self {
        let mut manager = format!("backtrail-{node}");
        // One for each node.
        manager.truncate(MAX_MANAGER);
        Self {
            herald: Herald::new(client.clone(), node.clone()),
            api: Api::all_with(client, &ApiResource::erase::<NodeRoutingState>(&())),
            applier: Applier::new(manager, pace.gap * 3),
            node,
            owned_by: None,
            written: None,
        }
    }

    /// Writes the status; the object is made, or made its Node's, where that is necessary.
    async fn write(&mut self, status: &NodeRoutingStateStatus, owner: Option<String>) -> kube::Result<()> {
        let owner = owner.unwrap_or_default();
        if self.owned_by.as_ref() != Some(&owner) {
            self.make(&owner).await?;
        }
        let state = match self.apply(status).await {
            Err(kube::Error::Api(refused)) if refused.code == 404 => {
                self.make(&owner).await?;
                self.apply(status).await?
            }
            result => result?,
        };
        if let Some(old) = &self.written {
            self.herald
                .node_changed(&self.node, state.metadata.uid, &old.conditions, &status.conditions)
                .await;
        }
        self.written = Some(status.clone());
        Ok(())
    }

    /// The object itself, owned by its Node: it goes when the Node goes.
    async fn make(&mut self, owner: &str) -> kube::Result<()> {
        let mut metadata = json!({"name": self.node});
        if !owner.is_empty() {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": owner}]);
        }
        let body = json!({"apiVersion": API_VERSION, "kind": "NodeRoutingState", "metadata": metadata});
        self.api.patch(&self.node, &self.applier.params(), &Patch::Apply(&body)).await?;
        self.owned_by = Some(owner.to_owned());
        Ok(())
    }

    async fn apply(&mut self, status: &NodeRoutingStateStatus) -> kube::Result<DynamicObject> {
        self.applier.apply(&self.api, "NodeRoutingState", &self.node, &json!(status), Instant::now()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{MapStatus, SteeredInterfaceStatus};

    #[test]
    fn a_late_answer_lengthens_the_pause_to_half_a_minute() {
        let pace = Pace::default();
        let after = |millis| pause_after(Duration::from_millis(millis), &pace);
        assert_eq!(after(1), Duration::from_secs(2));
        assert_eq!(after(100), Duration::from_secs(5));
        assert_eq!(after(60_000), Duration::from_secs(30));
    }

    #[test]
    fn counters_and_times_are_no_news() {
        let mut status = NodeRoutingStateStatus::default();
        status
            .return_path
            .interfaces
            .push(SteeredInterfaceStatus { name: "eth0".into(), ..Default::default() });
        status.return_path.maps.push(MapStatus { name: "rp_flows".into(), ..Default::default() });
        let before = essence(&status);
        let now = Some(Time(jiff::Timestamp::now()));
        (status.agent.heartbeat, status.fpm.last_message) = (now.clone(), now);
        status.return_path.interfaces[0].counters.steered = 7;
        status.return_path.maps[0].entries = Some(9);
        assert_eq!(essence(&status), before);
        status.return_path.interfaces[0].state = "AttachFailed".into();
        assert_ne!(essence(&status), before);
    }
}
