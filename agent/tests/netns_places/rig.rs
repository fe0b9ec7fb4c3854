//! A real agent on a node with two ways to its clients.

use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::frames::{self, L4};
use backtrail_lab::ways::{TwoWays, VIP4, VIP6, services};
use backtrail_lab::{Agent, AgentOptions, End, Lab, Namespace, send_packet, transfer, wait_until};
use serde_json::Value;

/// For what the agent does.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// For one exchange.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this kernel, or what is installed, lacks what a command needed. Any other failure of it is the test's.
pub(crate) fn lacks(test: &str, made: Result<String>) -> Result<bool> {
    const LACKING: [&str; 4] =
        ["Unknown device type", "not supported", ": not found", "do you need to insmod"];
    let Err(error) = made else { return Ok(false) };
    let text = format!("{error:#}");
    if !LACKING.iter().any(|words| text.contains(words)) {
        return Err(error);
    }
    println!("SKIPPED {test}: {}", error.root_cause().to_string().trim());
    Ok(true)
}

/// A `ReturnPath` for these interfaces, with further lines of its spec.
pub(crate) fn return_path(interfaces: &[&str], spec: &str) -> String {
    let interfaces: Vec<String> = interfaces.iter().map(|name| format!("{{name: {name}}}")).collect();
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {{name: services}}
spec:
  interfaces: [{}]
{spec}",
        interfaces.join(", ")
    )
}

/// Starts an agent, and waits until its programs are where the manifests and routes want them: on `interfaces`, and those
/// that are named here learn.
pub(crate) fn start_agent(
    lab: &Lab,
    node: &Namespace,
    manifests: String,
    interfaces: &[&str],
) -> Result<Agent> {
    let arguments = ["--fpm-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let arguments = arguments.map(str::to_owned).to_vec();
    let options = AgentOptions { manifests, arguments, ..AgentOptions::default() };
    let agent = Agent::start(lab, node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
    wait_attached(&agent, interfaces)?;
    Ok(agent)
}

/// Waits until these interfaces have all their programs.
pub(crate) fn wait_attached(agent: &Agent, interfaces: &[&str]) -> Result<()> {
    let attached =
        |name: &&str| interface(agent, name).is_ok_and(|interface| interface["state"] == "Attached");
    let waited = wait_until(WAIT, "programs are attached", || interfaces.iter().all(attached));
    waited.map(drop).with_context(|| format!("{:?}\n{}", agent.command(&["status"]), agent.log()))
}

/// What the status says of an interface.
pub(crate) fn interface(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.json(&["status"])?;
    let all = status["returnPath"]["interfaces"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .find(|interface| interface["name"] == name)
        .with_context(|| format!("no {name} in {status}"))
}

/// A counter of an interface.
pub(crate) fn counter(agent: &Agent, name: &str, counter: &str) -> Result<u64> {
    let interface = interface(agent, name)?;
    interface["counters"][counter].as_u64().with_context(|| format!("no {counter} in {interface}"))
}

/// Where ours is in the chain of an interface's side.
pub(crate) fn position(place: &Place, name: &str, side: &str) -> Result<String> {
    let interface = interface(&place.agent, name)?;
    let programs = interface["programs"].as_array().cloned().unwrap_or_default();
    let found = programs.iter().find(|program| program["direction"] == side);
    Ok(found.with_context(|| format!("no {side}"))?["position"].as_str().unwrap_or_default().to_owned())
}

/// Waits until ours is there in the chain.
pub(crate) fn wait_position(place: &Place, name: &str, side: &str, expected: &str) -> Result<()> {
    let there = || position(place, name, side).is_ok_and(|at| at == expected);
    wait_until(WAIT, &format!("{name} {side} is {expected}"), there).map(drop)
}

/// A pod behind the node: `10.244.0.2` and `fd00:244::2`, its link on the node is `vpod`.
pub(crate) fn connect_pod(net: &TwoWays) -> Result<Namespace> {
    let pod = net.lab.namespace("pod")?;
    net.lab.connect(
        &End::new(&pod, "eth0", &["10.244.0.2/24", "fd00:244::2/64"]),
        &End::new(&net.node, "vpod", &["10.244.0.1/24", "fd00:244::1/64"]),
    )?;
    pod.run("ip route add default via 10.244.0.1; ip -6 route add default via fd00:244::1")?;
    Ok(pod)
}

/// A pod that the router reaches, untranslated, by the link of the requests.
pub(crate) fn connect_reached_pod(net: &TwoWays) -> Result<Namespace> {
    let pod = connect_pod(net)?;
    net.router.run("ip route add 10.244.0.0/24 via 10.0.2.2; ip -6 route add fd00:244::/64 via fd00:2::2")?;
    Ok(pod)
}

/// Both ends of the link of the requests give it up; `node` and `router` make other devices of it.
pub(crate) fn rebuilt(net: &TwoWays, node: &str, router: &str) -> Result<()> {
    // Without its link-local address the router could ask for no neighbour.
    net.node.run(&format!("ip addr flush dev vred scope global\n{node}"))?;
    net.router.run(&format!("ip addr flush dev rred scope global\n{router}"))?;
    net.router
        .run(&format!("ip route replace {VIP4} via 10.0.2.2; ip -6 route replace {VIP6} via fd00:2::2"))?;
    Ok(())
}

/// Addresses of the link of the requests, on another device.
pub(crate) fn addresses(device: &str, last: u8) -> String {
    format!(
        "ip link set {device} up; ip addr add 10.0.2.{last}/24 dev {device}
         ip -6 addr add fd00:2::{last}/64 dev {device} nodad\n"
    )
}

/// The default route leaves the node by this device instead, on a link of its own with this device of the router.
pub(crate) fn default_by(net: &TwoWays, device: &str, router: &str) -> Result<()> {
    let up = |device: &str, last: u8| {
        format!(
            "ip link set {device} up; ip addr add 10.0.3.{last}/24 dev {device}
             ip -6 addr add fd00:3::{last}/64 dev {device} nodad\n"
        )
    };
    net.router.run(&up(router, 1))?;
    net.node.run(&format!(
        "{}ip route replace default via 10.0.3.1; ip -6 route replace default via fd00:3::1",
        up(device, 2)
    ))?;
    Ok(())
}

/// The net with an agent; fields are dropped in this order.
pub(crate) struct Place {
    pub(crate) agent: Agent,
    net: TwoWays,
}

impl Deref for Place {
    type Target = TwoWays;

    fn deref(&self) -> &TwoWays {
        &self.net
    }
}

impl Place {
    /// An agent that steers what comes in by `vred`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::with(name, "", |_| Ok(()))
    }

    /// The same with further lines of the `ReturnPath`'s spec, on a node that `prepare` has made ready.
    pub(crate) fn with(name: &str, spec: &str, prepare: impl FnOnce(&TwoWays) -> Result<()>) -> Result<Self> {
        Self::bare(name, spec, &["vred", "vdef"], prepare)
    }

    /// The same where other interfaces than those two get programs.
    pub(crate) fn bare(
        name: &str,
        spec: &str,
        attached: &[&str],
        prepare: impl FnOnce(&TwoWays) -> Result<()>,
    ) -> Result<Self> {
        Self::made(name, return_path(&["vred"], spec), attached, prepare)
    }

    /// The same with another interface listed than `vred`.
    pub(crate) fn listed(
        name: &str,
        interface: &str,
        prepare: impl FnOnce(&TwoWays) -> Result<()>,
    ) -> Result<Self> {
        Self::made(name, return_path(&[interface], ""), &[interface, "vdef"], prepare)
    }

    fn made(
        name: &str,
        manifests: String,
        attached: &[&str],
        prepare: impl FnOnce(&TwoWays) -> Result<()>,
    ) -> Result<Self> {
        let net = TwoWays::new(name)?;
        prepare(&net)?;
        let agent = start_agent(&net.lab, &net.node, manifests, attached)?;
        Ok(Self { agent, net })
    }

    /// Asserts that each protocol's replies are steered, with more of them than fits a packet.
    pub(crate) fn assert_steered_whole(&self) -> Result<()> {
        self.assert_steered()?;
        for target in services()? {
            let large = || transfer::stream(&self.client, target, 1 << 20, PATIENCE);
            ensure_steered("1 MiB", self.wires(large)?)?;
            let fragments = || transfer::datagram(&self.client, target, 4000, PATIENCE);
            ensure_steered("fragments", self.wires(fragments)?)?;
        }
        Ok(())
    }

    /// A counter of an interface.
    pub(crate) fn counter(&self, interface: &str, name: &str) -> Result<u64> {
        counter(&self.agent, interface, name)
    }

    /// Waits until a counter of an interface is at least so high: the status is some seconds old.
    pub(crate) fn wait_counter(&self, interface: &str, name: &str, least: u64) -> Result<()> {
        let reached = || self.counter(interface, name).is_ok_and(|count| count >= least);
        wait_until(WAIT, &format!("{name} of {interface} is {least}"), reached).map(drop)
    }
}

/// Sends a packet with all its checksums from a namespace, by its routes.
pub(crate) fn send(from: &Namespace, source: &str, destination: &str, l4: L4, hops: u8) -> Result<()> {
    send_packet(from, &frames::packet(source.parse::<IpAddr>()?, destination.parse::<IpAddr>()?, l4, hops))
}

/// Whether a frame is of this protocol.
pub(crate) fn is(protocol: u8) -> impl Fn(&backtrail_lab::Frame) -> bool {
    move |frame| frame.protocol == protocol
}

/// Fails unless all frames left by the interface of the request.
pub(crate) fn ensure_steered(what: &str, wires: backtrail_lab::ways::Wires) -> Result<()> {
    ensure!(wires.are_steered(), "{what}: {wires:?}");
    Ok(())
}

/// Fails unless all frames followed the default route.
pub(crate) fn ensure_untouched(what: &str, wires: backtrail_lab::ways::Wires) -> Result<()> {
    ensure!(wires.follow_default(), "{what}: {wires:?}");
    Ok(())
}
