//! Who sums up: one of the agents, by a Lease that is written only when it changes hands.
//!
//! The holder does not renew it: every agent writes its `NodeRoutingState` as a heartbeat anyway, and that of the holder
//! tells whether it lives. It is looked at rarely, and judged by this machine's own clock, as a change that was seen or
//! not; so clocks that differ or jump mean nothing. Two agents that sum up for a while write the same.
//!
//! That takes up to half an hour. When somebody edits an object and no status answers, which every agent sees in the
//! watches that it has anyway, the holder is taken for dead after minutes. Each holder gets that chance once: of edits
//! that need no answer nothing comes but a Lease that changes hands.

use std::pin::pin;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch as latest;

use super::pace::{Pace, jitter};
use super::trouble::Trouble;
use crate::api::NodeRoutingState;

/// Name of the Lease, in the agents' own namespace.
const LEASE: &str = "backtrail-sum";

/// Keeps `leading` at whether this agent sums up. `owed`: whether an edit waits for a status that answers it.
pub(super) async fn stand(
    client: Client,
    node: String,
    pace: Pace,
    leading: latest::Sender<bool>,
    owed: latest::Sender<bool>,
) {
    let namespace = client.default_namespace().to_owned();
    let mut candidate = Candidate {
        leases: Api::namespaced(client.clone(), &namespace),
        states: Api::all(client),
        node,
        pace,
        heard: None,
    };
    let mut told: Option<Trouble> = None;
    let mut unanswered = false;
    let mut waiting = pin!(unanswered_for(patience(pace), owed.subscribe()));
    loop {
        match candidate.leads(Instant::now(), unanswered).await {
            Ok(leads) => {
                told = None;
                let changed = leading.send_if_modified(|now| std::mem::replace(now, leads) != leads);
                if changed {
                    tracing::info!(leads, "summing up the status of objects over all nodes");
                }
            }
            Err(error) => {
                let trouble = Trouble::of("Lease", &error);
                if trouble.is_some() && trouble != told {
                    tracing::warn!(%error, "it is not known which agent sums up the status of objects");
                    told = trouble;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jitter(if told.is_some() { pace.gap } else { pace.lead })) => unanswered = false,
            () = &mut waiting => {
                unanswered = true;
                owed.send_replace(false);
                waiting.set(unanswered_for(patience(pace), owed.subscribe()));
            }
            () = leading.closed() => return,
        }
    }
}

/// Agents do not ask all at once: between the shortest time and twice that.
fn patience(pace: Pace) -> Duration {
    pace.patience + (jitter(pace.patience) - pace.patience) * 10
}

/// Ends when an answer has been owed for so long without a break.
async fn unanswered_for(time: Duration, mut owed: latest::Receiver<bool>) {
    // The sender lives as long as the caller.
    while owed.wait_for(|owed| *owed).await.is_ok() {
        if tokio::time::timeout(time, owed.wait_for(|owed| !*owed)).await.is_err() {
            return;
        }
    }
}

struct Candidate {
    leases: Api<Lease>,
    states: Api<NodeRoutingState>,
    node: String,
    pace: Pace,
    /// The holder, the version of its state, and when that was first seen.
    heard: Option<(String, String, Instant)>,
}

impl Candidate {
    /// `unanswered`: the holder has left an edit without an answer.
    async fn leads(&mut self, now: Instant, unanswered: bool) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(LEASE).await? else { return self.take(None).await };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder == self.node {
            return Ok(true);
        }
        // One that has taken over since is given its own chance.
        let failed = unanswered && self.heard.as_ref().is_some_and(|(who, ..)| *who == holder);
        if !failed && !holder.is_empty() && self.lives(&holder, now).await? {
            return Ok(false);
        }
        tracing::info!(holder, "the agent that summed up is gone");
        self.take(Some(lease)).await
    }

    /// Whether the holder's agent has written its state within the time that it should.
    async fn lives(&mut self, holder: &str, now: Instant) -> kube::Result<bool> {
        let Some(state) = self.states.get_metadata_opt(holder).await? else { return Ok(false) };
        let version = state.metadata.resource_version.unwrap_or_default();
        match &self.heard {
            Some((who, heard, since)) if who == holder && *heard == version => {
                Ok(now.saturating_duration_since(*since) < self.pace.silent)
            }
            _ => {
                self.heard = Some((holder.to_owned(), version, now));
                Ok(true)
            }
        }
    }

    /// Writes the Lease, unless another agent was faster.
    async fn take(&self, old: Option<Lease>) -> kube::Result<bool> {
        let spec = |transitions| LeaseSpec {
            holder_identity: Some(self.node.clone()),
            acquire_time: Some(MicroTime(jiff::Timestamp::now())),
            lease_transitions: Some(transitions),
            ..Default::default()
        };
        let taken = match old {
            None => {
                let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..Default::default() };
                let lease = Lease { metadata, spec: Some(spec(0)) };
                self.leases.create(&PostParams::default(), &lease).await
            }
            // With the version that was read: who comes second is refused.
            Some(mut lease) => {
                let transitions =
                    lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
                lease.spec = Some(spec(transitions + 1));
                self.leases.replace(LEASE, &PostParams::default(), &lease).await
            }
        };
        match taken {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}
