//! Nanoseconds for one packet, by BPF_PROG_TEST_RUN: Backtrail's programs beside the least that steers.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use backtrail_ebpf_common::OBJECT;
use backtrail_ebpf_common::maps::{self, Globals, Iface, Path};
use backtrail_lab::{End, Lab, Namespace};

use super::frames::{self, Family, From};
use crate::report::Report;

static BASELINE: &[u8] = aya::include_bytes_aligned!("../../ebpf/dist/baseline.bpf.o");

/// Packets of one measurement.
const REPEAT: u32 = 500_000;
/// Measurements of a case in one round, of which the lowest counts: whatever else the machine does only adds.
const TRIES: u32 = 5;
/// Offset of `ifindex` in `struct __sk_buff`, and the structure's length.
const IFINDEX: usize = 40;
const CONTEXT: usize = 192;
const NEXT: i32 = -1;
const REDIRECT: i32 = 7;

const GOOD: u32 = 1;
const BAD: u32 = 2;
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// An interface of the node.
#[derive(Debug, Clone, Copy)]
struct Device {
    index: u32,
    mac: [u8; 6],
}

/// One measured case.
struct Case {
    name: String,
    baseline: bool,
    program: &'static str,
    frame: Vec<u8>,
    device: u32,
    verdict: i32,
}

/// The node with both sets of programs, which live as long as it does.
pub(crate) struct Bed {
    node: Namespace,
    ours: Ebpf,
    baseline: Ebpf,
    cases: Vec<Case>,
    _routers: Namespace,
}

impl Bed {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let (node, routers) = (lab.namespace("testrun")?, lab.namespace("testrun-routers")?);
        lab.connect(
            &End::new(&node, "good", &["10.1.0.1/24", "2001:db8:1::1/64"]),
            &End::new(&routers, "rgood", &["10.1.0.254/24", "2001:db8:1::fe/64"]).mac("02:00:00:00:00:01"),
        )?;
        lab.connect(
            &End::new(&node, "bad", &["10.2.0.1/24", "2001:db8:2::1/64"]),
            &End::new(&routers, "rbad", &["10.2.0.254/24", "2001:db8:2::fe/64"]),
        )?;
        node.forward()?;
        // The way back must be found by a lookup on the right interface: a route there of its own, to a gateway that is
        // resolved, for no packet is really sent that would resolve it.
        node.run(
            "ip addr add 198.51.100.10/32 dev lo; ip -6 addr add 2001:db8:100::10/128 dev lo nodad
             ip route add default via 10.2.0.254; ip -6 route add default via 2001:db8:2::fe
             ip route add default via 10.1.0.254 dev good table 100; ip rule add oif good lookup 100 pref 1000
             ip -6 route add default via 2001:db8:1::fe dev good table 100; ip -6 rule add oif good lookup 100 pref 1000
             ip neigh replace 10.1.0.254 lladdr 02:00:00:00:00:01 dev good; ip -6 neigh replace 2001:db8:1::fe lladdr 02:00:00:00:00:01 dev good",
        )?;
        let (good, bad) = (device(&node, "good")?, device(&node, "bad")?);
        let programs = [maps::programs::INGRESS, maps::programs::EGRESS];
        let mut ours = load(OBJECT, &programs)?;
        configure(&mut ours, good, bad)?;
        let baseline = load(BASELINE, &["empty", "learn", "steer"])?;
        let bed = Self { node, ours, baseline, cases: cases(good, bad), _routers: routers };
        for family in Family::ALL {
            let opener = frames::opener(family, [good.mac, ROUTER]);
            bed.test(false, maps::programs::INGRESS, &opener, good.index, 1)?;
            // The node goes on to send: the flow is confirmed.
            let reply = frames::packet(family, From::Service, [OTHER, good.mac]);
            bed.test(false, maps::programs::EGRESS, &reply, good.index, 1)?;
        }
        let opener = frames::opener(Family::V4, [good.mac, ROUTER]);
        bed.test(true, "learn", &opener, good.index, 1)?;
        Ok(bed)
    }

    /// Measures every case once, in turns.
    pub(crate) fn round(&mut self, report: &mut Report) -> Result<()> {
        let cases = std::mem::take(&mut self.cases);
        let mut lowest = vec![f64::INFINITY; cases.len()];
        for _ in 0..TRIES {
            for (case, lowest) in cases.iter().zip(&mut lowest) {
                let (verdict, nanoseconds) =
                    self.test(case.baseline, case.program, &case.frame, case.device, REPEAT)?;
                ensure!(verdict == case.verdict, "{}: verdict {verdict}, not {}", case.name, case.verdict);
                *lowest = lowest.min(nanoseconds);
            }
        }
        let of = |name: &str| {
            let at = cases.iter().position(|case| case.name == name);
            at.and_then(|at| lowest.get(at).copied()).with_context(|| format!("no case {name}"))
        };
        for (case, nanoseconds) in cases.iter().zip(&lowest) {
            report.add(format!("test run: {}", case.name), "ns/packet", *nanoseconds);
        }
        let empty = of("empty")?;
        let over = |name: &str| of(name).map(|nanoseconds| (nanoseconds - empty).max(0.0));
        let unknown = over("baseline egress unknown IPv4")?;
        let mut worst: f64 = 0.0;
        for what in ["egress unknown", "egress known", "ingress known", "egress steered"] {
            worst = worst.max(over(&format!("{what} IPv6"))? / over(&format!("{what} IPv4"))?);
        }
        report.add_bar("unknown-flow", over("egress unknown IPv4")? / unknown);
        report.add_bar("known-flow", over("egress known IPv4")? / over("baseline egress known IPv4")?);
        report.add_bar(
            "known-flow-ingress",
            over("ingress known IPv4")? / over("baseline ingress known IPv4")?,
        );
        report.add_bar("steered-flow", over("egress steered IPv4")? / unknown);
        report.add_bar("ipv6-over-ipv4", worst);
        self.cases = cases;
        Ok(())
    }

    /// Runs a program on a frame; returns its verdict, and the mean time of a run.
    fn test(
        &self,
        baseline: bool,
        program: &str,
        frame: &[u8],
        device: u32,
        repeat: u32,
    ) -> Result<(i32, f64)> {
        let mut context = vec![0; CONTEXT];
        if let Some(field) = context.get_mut(IFINDEX..IFINDEX + 4) {
            field.copy_from_slice(&device.to_ne_bytes());
        }
        let object = if baseline { &self.baseline } else { &self.ours };
        let program: &SchedClassifier =
            object.program(program).with_context(|| format!("no program {program}"))?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self.node.enter(|| program.test_run(options))?.context("BPF_PROG_TEST_RUN")?;
        Ok((result.return_value.cast_signed(), result.duration.as_secs_f64() * 1e9))
    }
}

fn cases(good: Device, bad: Device) -> Vec<Case> {
    let arriving = [good.mac, ROUTER];
    let leaving = |device: Device| [OTHER, device.mac];
    let mut cases = Vec::new();
    for family in Family::ALL {
        for baseline in [false, true] {
            if baseline && family == Family::V6 {
                continue;
            }
            let (ingress, egress, who) = if baseline {
                ("learn", "steer", "baseline ")
            } else {
                (maps::programs::INGRESS, maps::programs::EGRESS, "")
            };
            let mut add = |what: &str, program, from, macs, device: Device, verdict| {
                let name = format!("{who}{what} {}", family.name());
                let frame = frames::packet(family, from, macs);
                cases.push(Case { name, baseline, program, frame, device: device.index, verdict });
            };
            add("egress unknown", egress, From::Stranger, leaving(bad), bad, NEXT);
            add("egress known", egress, From::Service, leaving(good), good, NEXT);
            add("ingress known", ingress, From::Client, arriving, good, NEXT);
            add("egress steered", egress, From::Service, leaving(bad), bad, REDIRECT);
        }
    }
    let frame = frames::packet(Family::V4, From::Service, leaving(bad));
    let name = "empty".to_owned();
    cases.push(Case { name, baseline: true, program: "empty", frame, device: bad.index, verdict: NEXT });
    cases
}

fn device(node: &Namespace, name: &str) -> Result<Device> {
    let links = node.json(&format!("ip -j link show dev {name}"))?;
    let link = links.get(0).context("no link")?;
    let index = link.get("ifindex").and_then(serde_json::Value::as_u64).context("no ifindex")?;
    let text = link.get("address").and_then(serde_json::Value::as_str).context("no address")?;
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(Device { index: u32::try_from(index)?, mac })
}

fn load(object: &[u8], programs: &[&str]) -> Result<Ebpf> {
    let mut ebpf = aya::EbpfLoader::new().load(object).context("cannot load a BPF object")?;
    for name in programs {
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        program.load().with_context(|| format!("the verifier refuses {name}"))?;
    }
    Ok(ebpf)
}

/// What the agent would write: requests are learned on `good`, whose gateways are known.
fn configure(ebpf: &mut Ebpf, good: Device, bad: Device) -> Result<()> {
    let globals = Globals {
        generation: 1,
        features: maps::FEATURE_TBID,
        tcp_idle: 0,
        udp_idle: 0,
        events: 0,
        secret: [1, 2, 3, 4, 5, 6, 7, 8],
    };
    array(ebpf, maps::names::GLOBALS)?.set(0, globals, 0)?;
    let mut v4 = [0; 16];
    v4[..4].copy_from_slice(&[10, 1, 0, 254]);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe).octets();
    for (id, family, gateway) in [(14, 4, v4), (16, 6, v6)] {
        let path = Path {
            ifindex: good.index,
            slot: GOOD,
            kind: maps::PATH_AUTO,
            family,
            gateway_family: family,
            gateway,
            mtu: 1500,
            state: maps::PATH_UP,
            table: 100,
            zone: 0,
            flags: 0,
            mac: good.mac,
            l2_length: 14,
        };
        array(ebpf, maps::names::PATHS)?.set(id, path, 0)?;
    }
    let listed = Iface {
        ifindex: good.index,
        slot: GOOD,
        flags: maps::IFACE_LEARN | maps::IFACE_CHECK_MAC,
        zone: 0,
        protocols: maps::PROTO_ALL,
        path4: 14,
        path6: 16,
        mac: good.mac,
        l2_length: 14,
    };
    let uplink = Iface {
        ifindex: bad.index,
        slot: BAD,
        flags: maps::IFACE_TRANSIT | maps::IFACE_CHECK_MAC,
        protocols: 0,
        path4: 0,
        path6: 0,
        mac: bad.mac,
        ..listed
    };
    for iface in [listed, uplink] {
        array(ebpf, maps::names::IFACES)?.set(maps::iface_index(iface.ifindex, 0), iface, 0)?;
    }
    Ok(())
}

fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut aya::maps::MapData, T>> {
    Ok(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?.try_into()?)
}
