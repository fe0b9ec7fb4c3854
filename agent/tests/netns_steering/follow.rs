//! Events of flows: reported while somebody follows, within a budget, and never else.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use backtrail::steering::{FlowEvent, FlowEventKind};
use backtrail_lab::{Agent, AgentOptions, wait_until};

use crate::topology::{CLIENT4, CLIENT6, PATIENCE, Topology, VIP4, VIP6};

fn listen(lab: &mut Topology, events: u32) -> Result<()> {
    let steering = lab.steering.as_mut().context("open")?;
    Ok(steering.listen(events)?)
}

fn events(lab: &mut Topology) -> Result<Vec<FlowEvent>> {
    Ok(lab.steering.as_mut().context("open")?.events())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn events_are_reported_while_somebody_listens() -> Result<()> {
    let mut lab = Topology::new("events")?;
    lab.apply()?;
    lab.assert_steered()?;
    ensure!(events(&mut lab)?.is_empty(), "nobody listens");
    listen(&mut lab, 64)?;
    lab.tcp(VIP4)?;
    lab.tcp(VIP6)?;
    let (request, default) = (lab.ifindex("vred")?, lab.ifindex("vdef")?);
    let seen = events(&mut lab)?;
    for client in [CLIENT4, CLIENT6] {
        let of = |kind| {
            let mut all = seen.iter().filter(|event| event.kind == kind);
            let found =
                all.find(|event| event.flow.is_some_and(|flow| flow.client.ip().to_string() == client));
            found.with_context(|| format!("no {kind:?} of {client}: {seen:?}"))
        };
        ensure!(of(FlowEventKind::Learned)?.ifindex == request);
        let steered = of(FlowEventKind::Steered)?;
        ensure!(steered.ifindex == default && steered.path_ifindex == Some(request), "{steered:?}");
    }
    // A flow is steered for the first time once.
    let steered = seen.iter().filter(|event| event.kind == FlowEventKind::Steered).count();
    ensure!(steered == 2, "{seen:?}");
    listen(&mut lab, 0)?;
    lab.udp(VIP4)?;
    ensure!(events(&mut lab)?.is_empty(), "nobody listens any more");
    Ok(())
}

/// What is over the budget is counted, and costs nothing else.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn events_keep_to_their_budget() -> Result<()> {
    let mut lab = Topology::new("budget")?;
    lab.apply()?;
    listen(&mut lab, 1)?;
    let learned = lab.counters("vred")?.learned;
    let told = wait_until(PATIENCE * 4, "events are suppressed", || {
        let all = (0..8).try_for_each(|_| lab.udp(VIP4));
        all.is_ok() && lab.steering().is_ok_and(|steering| steering.suppressed_events().is_ok_and(|n| n > 0))
    });
    told?;
    let happened = lab.counters("vred")?.learned - learned;
    let suppressed = lab.steering()?.suppressed_events()?;
    let reported = events(&mut lab)?.len() as u64;
    // Each flow is learned, and steered for the first time.
    ensure!(reported + suppressed == 2 * happened, "{reported} + {suppressed} of {happened} flows");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn flows_are_followed_by_the_command() -> Result<()> {
    let lab = Topology::new("follow")?;
    let manifests = "apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: lb}
spec:
  interfaces:
  - {name: vred}
";
    let options = AgentOptions {
        manifests: manifests.to_owned(),
        arguments: ["--fpm-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec(),
        ..AgentOptions::default()
    };
    let agent = Agent::start(&lab.lab, &lab.node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
    let attached = || {
        let status = agent.json(&["status"]).unwrap_or_default();
        let interfaces = status["returnPath"]["interfaces"].as_array().cloned().unwrap_or_default();
        interfaces.iter().any(|interface| interface["learns"] == true && interface["state"] == "Attached")
    };
    wait_until(PATIENCE * 6, "vred is attached", attached)?;
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Programs may still be swapped: what counts is that events are told.
                drop(lab.udp(VIP4));
            }
        });
        let output = agent.command(&["flows", "--follow", "--limit", "3", "-o", "json"]);
        done.store(true, Ordering::Relaxed);
        traffic.join().map(|()| output)
    });
    let (_, output) = output.ok().context("the traffic ended badly")??;
    let events: Vec<serde_json::Value> =
        output.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(output.clone())?;
    ensure!(events.len() == 3, "{output}");
    let client = format!("{CLIENT4}:");
    let learned = events.iter().find(|event| event["event"] == "Learned").context(output.clone())?;
    ensure!(learned["interface"] == "vred" && learned["proto"] == "UDP", "{learned}");
    ensure!(learned["client"].as_str().is_some_and(|text| text.starts_with(&client)), "{learned}");
    let steered = events.iter().find(|event| event["event"] == "Steered").context(output.clone())?;
    ensure!(steered["interface"] == "vdef" && steered["repliesBy"] == "vred", "{steered}");
    Ok(())
}
