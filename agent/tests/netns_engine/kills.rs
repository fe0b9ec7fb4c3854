//! SIGKILL at any instant, while routes come and go and steady flows go on.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, withdraw};
use backtrail_lab::{Flow, UdpEcho};

use crate::rig::{BOTH, Rig, UP, WAYS, prefixes};

/// Prefixes that come and go, after those that stay.
const CHURN: u32 = 500;
const STEADY: u32 = 20;

/// Kills, unless `BACKTRAIL_KILLS` says how many.
const KILLS: u32 = 25;

/// Looks random, is the same in every run (xorshift).
struct Dice(u32);

impl Dice {
    fn roll(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % below
    }
}

/// What zebra believes of the prefixes that come and go: their nexthop id.
type Model = Vec<Option<u32>>;

fn ways(id: u32) -> BTreeSet<String> {
    let uplinks: &[&str] = if id == BOTH {
        &WAYS
    } else if id == UP[0] {
        &WAYS[..1]
    } else {
        &WAYS[1..]
    };
    uplinks.iter().map(|way| (*way).to_owned()).collect()
}

fn churn(rig: &mut Rig, model: &mut Model, dice: &mut Dice, changes: u32) -> Result<()> {
    let nets = prefixes(STEADY + CHURN);
    let mut updates = Vec::new();
    for _ in 0..changes {
        let pick = dice.roll(CHURN) as usize;
        let net = nets[STEADY as usize + pick];
        let id = [None, Some(UP[0]), Some(UP[1]), Some(BOTH)][dice.roll(4) as usize];
        model[pick] = id;
        updates.push(id.map_or_else(|| withdraw(net), |id| announce(net, id)));
    }
    rig.feeder()?.send(updates)
}

/// What zebra does when the agent is back: everything that it has, and no word of what it has not.
fn replay(rig: &mut Rig, model: &Model) -> Result<()> {
    rig.connect()?;
    let nets = prefixes(STEADY + CHURN);
    let steady = nets.iter().take(STEADY as usize).map(|net| announce(*net, BOTH));
    let churned = nets.iter().skip(STEADY as usize).zip(model);
    let churned = churned.filter_map(|(net, id)| Some(announce(*net, (*id)?)));
    let updates: Vec<_> = steady.chain(churned).collect();
    rig.feeder()?.send(updates)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn no_packet_is_lost_and_the_table_is_right_after_many_kills() -> Result<()> {
    let kills = std::env::var("BACKTRAIL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut rig = Rig::start("")?;
    let mut model: Model = vec![None; CHURN as usize];
    rig.load(STEADY, BOTH)?;
    for (number, peer) in rig.peers.iter().enumerate() {
        // Replies to either of the node's addresses go back the way that the packet came.
        let other = 1 - number;
        peer.run(&format!(
            "ip addr add 10.64.0.1/32 dev lo; ip addr add 10.64.1.1/32 dev lo
             ip route add 198.18.{other}.0/24 via 198.18.{number}.2"
        ))?;
    }
    let mut echoes = Vec::new();
    let mut flows = Vec::new();
    for target in ["10.64.0.1:9000", "10.64.1.1:9000"] {
        for peer in &rig.peers {
            echoes.push(UdpEcho::start(peer, target.parse()?)?);
        }
        for source in ["198.18.0.2:0", "198.18.1.2:0"] {
            flows.push(Flow::start(&rig.node, source.parse()?, target.parse()?, Duration::from_millis(5))?);
        }
    }
    let mut dice = Dice(0x9e37_79b9);
    for kill in 0..kills {
        churn(&mut rig, &mut model, &mut dice, 200)?;
        // Any instant: before, amid and after what that brings about.
        std::thread::sleep(Duration::from_micros(u64::from(dice.roll(30_000))));
        rig.agent.kill()?;
        rig.feeder = None;
        // zebra goes on alone for a while.
        for entry in model.iter_mut().take(20) {
            *entry = [None, Some(UP[0]), Some(BOTH)][dice.roll(3) as usize];
        }
        rig.agent.run().with_context(|| format!("after kill {kill}"))?;
        replay(&mut rig, &model)?;
        if kill % 5 == 4 {
            // Now and then the agent gets to the end of it; else the next kill hits amid the replay.
            rig.wait_synchronized()?;
        }
    }
    rig.wait_synchronized()?;
    let nets = prefixes(STEADY + CHURN);
    let steady = nets.iter().take(STEADY as usize).map(|net| (net.to_string(), ways(BOTH)));
    let churned = nets.iter().skip(STEADY as usize).zip(&model);
    let churned = churned.filter_map(|(net, id)| Some((net.to_string(), ways((*id)?))));
    let expected: backtrail_lab::Fib = steady.chain(churned).collect();
    rig.wait_fib("the table is the model", |fib| *fib == expected)?;
    for flow in flows {
        let report = flow.stop();
        ensure!(report.lost == 0 && report.received > 0, "a steady flow lost packets: {report:?}");
    }
    drop(echoes);
    rig.ensure_clean()
}
