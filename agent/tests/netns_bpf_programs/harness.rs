//! A node with two uplinks, and the programs on them.
//!
//! `good` is listed: requests are learned there. `bad` is where the default route leads. Both have a router.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use backtrail_ebpf_common::maps::{
    self, Counters, Flow, Flow6, FlowDigest6, FlowKey4, FlowKey6, Globals, Iface, MacKey, Path, Prefix4,
    Prefix6,
};
use backtrail_lab::{End, Lab, Namespace};

use crate::frames::Pair;

/// `TCX_NEXT`
pub(crate) const NEXT: i32 = -1;
/// `TC_ACT_SHOT`
pub(crate) const DROP: i32 = 2;
/// `TC_ACT_REDIRECT`
pub(crate) const REDIRECT: i32 = 7;

/// Slots and default path ids of the interfaces.
pub(crate) const GOOD: u32 = 1;
pub(crate) const BAD: u32 = 2;
pub(crate) const SINK: u32 = 3;
/// Path ids: the default of `good`, by family; see [`Node::run`].
pub(crate) const PATH4: u32 = 14;
pub(crate) const PATH6: u32 = 16;

/// MAC of the router behind `good`.
pub(crate) const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// What the agent would write.
pub(crate) const GLOBALS: Globals = Globals {
    generation: 1,
    features: maps::FEATURE_TBID,
    tcp_idle: 0,
    udp_idle: 0,
    events: 0,
    secret: [0xdead_beef, 2, 3, 0x8000_0000, 5, 6, u32::MAX, 8],
};

const FLOW_TABLES: [&str; 2] = [maps::names::FLOWS, maps::names::FLOWS6];
const OPENER_TABLES: [&str; 2] = [maps::names::OPENERS, maps::names::OPENERS6];

/// Offsets in `struct __sk_buff`.
mod skb {
    pub(super) const IFINDEX: usize = 40;
    pub(super) const GSO_SEGMENTS: usize = 164;
    pub(super) const GSO_SIZE: usize = 176;
    pub(super) const LENGTH: usize = 192;
}

/// The node under test.
pub(crate) struct Node<'a> {
    pub(crate) ebpf: Ebpf,
    pub(crate) namespace: &'a Namespace,
    /// Where both routers live.
    pub(crate) routers: &'a Namespace,
    devices: HashMap<String, (u32, [u8; 6])>,
}

impl Node<'_> {
    /// Runs `test` in a fresh node whose interfaces are all known to the programs.
    pub(crate) fn run(test: impl FnOnce(&mut Node<'_>) + Send) {
        Self::run_with(4096, test);
    }

    /// The same, with so many entries in each flow table.
    pub(crate) fn run_with(entries: u32, test: impl FnOnce(&mut Node<'_>) + Send) {
        let lab = Lab::new("bpf").unwrap();
        let (node, routers) = (lab.namespace("node").unwrap(), lab.namespace("routers").unwrap());
        lab.connect(
            &End::new(&node, "good", &["10.1.0.1/24", "2001:db8:1::1/64"]),
            &End::new(&routers, "rgood", &["10.1.0.254/24", "2001:db8:1::fe/64"]).mac("02:00:00:00:00:01"),
        )
        .unwrap();
        lab.connect(
            &End::new(&node, "bad", &["10.2.0.1/24", "2001:db8:2::1/64"]),
            &End::new(&routers, "rbad", &["10.2.0.254/24", "2001:db8:2::fe/64"]),
        )
        .unwrap();
        node.forward().unwrap();
        node.run("ip route add default via 10.2.0.254; ip -6 route add default via 2001:db8:2::fe").unwrap();
        for neighbour in ["10.1.0.254", "10.1.0.253", "10.1.0.252", "2001:db8:1::fe"] {
            node.run(&format!("ip neigh add {neighbour} lladdr 02:00:00:00:00:01 dev good")).unwrap();
        }
        node.enter(|| {
            let ebpf = load(entries);
            let mut node = Node { ebpf, namespace: &node, routers: &routers, devices: HashMap::new() };
            node.set_globals(GLOBALS);
            for name in ["good", "bad"] {
                node.add_device(name);
            }
            let good = node.listed("good", GOOD);
            let bad = Iface { flags: maps::IFACE_TRANSIT, path4: 0, path6: 0, ..node.listed("bad", BAD) };
            node.set_iface(good);
            node.set_iface(bad);
            let v4 = node.auto_path("good", 4);
            let v6 = node.auto_path("good", 6);
            node.set_path(PATH4, v4);
            node.set_path(PATH6, v6);
            test(&mut node);
        })
        .unwrap();
    }

    /// Finds out index and MAC of a device.
    pub(crate) fn add_device(&mut self, name: &str) {
        let links = self.namespace.json(&format!("ip -j link show dev {name}")).unwrap();
        let index = u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap();
        let mut mac = [0; 6];
        if let Some(text) = links[0]["address"].as_str() {
            for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
                *byte = u8::from_str_radix(digits, 16).unwrap();
            }
        }
        self.devices.insert(name.to_owned(), (index, mac));
    }

    pub(crate) fn index(&self, device: &str) -> u32 {
        self.devices[device].0
    }

    pub(crate) fn mac(&self, device: &str) -> [u8; 6] {
        self.devices[device].1
    }

    /// A listed Ethernet interface outside of VRFs.
    pub(crate) fn listed(&self, device: &str, slot: u32) -> Iface {
        Iface {
            ifindex: self.index(device),
            slot,
            flags: maps::IFACE_LEARN | maps::IFACE_TRANSIT,
            zone: 0,
            protocols: maps::PROTO_ALL,
            path4: PATH4,
            path6: PATH6,
            mac: self.mac(device),
            l2_length: 14,
        }
    }

    /// The path of an interface without candidates.
    pub(crate) fn auto_path(&self, device: &str, family: u32) -> Path {
        Path {
            ifindex: self.index(device),
            slot: GOOD,
            kind: maps::PATH_AUTO,
            family,
            gateway_family: 0,
            gateway: [0; 16],
            mtu: 0,
            state: maps::PATH_UP,
            table: 254,
            zone: 0,
            flags: 0,
            mac: self.mac(device),
            l2_length: 14,
        }
    }

    /// Changes the default paths of `good`, both families.
    pub(crate) fn change_paths(&mut self, change: impl Fn(&mut Path)) {
        for id in [PATH4, PATH6] {
            let mut path = self.array::<Path>(maps::names::PATHS).get(&id, 0).unwrap();
            change(&mut path);
            self.set_path(id, path);
        }
    }

    /// Changes an interface.
    pub(crate) fn change_iface(&mut self, device: &str, change: impl Fn(&mut Iface)) {
        let index = maps::iface_index(self.index(device), 0);
        let mut iface = self.array::<Iface>(maps::names::IFACES).get(&index, 0).unwrap();
        change(&mut iface);
        self.set_iface(iface);
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    pub(crate) fn set_globals(&mut self, globals: Globals) {
        self.array(maps::names::GLOBALS).set(0, globals, 0).unwrap();
    }

    pub(crate) fn set_path(&mut self, id: u32, path: Path) {
        self.array(maps::names::PATHS).set(id, path, 0).unwrap();
    }

    pub(crate) fn set_iface(&mut self, iface: Iface) {
        let index = maps::iface_index(iface.ifindex, 0);
        self.array(maps::names::IFACES).set(index, iface, 0).unwrap();
    }

    pub(crate) fn forget_interfaces(&mut self) {
        for (index, _) in self.devices.clone().into_values() {
            let free = Iface { ifindex: 0, ..self.listed("good", 0) };
            self.array(maps::names::IFACES).set(maps::iface_index(index, 0), free, 0).unwrap();
        }
    }

    pub(crate) fn set_mac(&mut self, device: &str, mac: [u8; 6], family: u16, path: u32) {
        let key = MacKey { ifindex: self.index(device), mac, family };
        let map = self.ebpf.map_mut(maps::names::MACS).unwrap();
        BpfHashMap::<_, MacKey, u32>::try_from(map).unwrap().insert(key, path, 0).unwrap();
    }

    /// Adds a prefix to `rp_vips` or `rp_never`, and their IPv6 twins.
    pub(crate) fn add_prefix(&mut self, map: &str, group: u32, address: IpAddr, length: u32, value: u32) {
        match address {
            IpAddr::V4(address) => {
                let key = Key::new(32 + length, Prefix4 { group, address: address.octets() });
                let map = self.ebpf.map_mut(map).unwrap();
                LpmTrie::<_, Prefix4, u32>::try_from(map).unwrap().insert(&key, value, 0).unwrap();
            }
            IpAddr::V6(address) => {
                let key = Key::new(32 + length, Prefix6 { group, address: address.octets() });
                let map = self.ebpf.map_mut(&format!("{map}6")).unwrap();
                LpmTrie::<_, Prefix6, u32>::try_from(map).unwrap().insert(&key, value, 0).unwrap();
            }
        }
    }

    /// What the programs know of a flow, confirmed or not; ports in host order.
    pub(crate) fn flow(&self, pair: &Pair, ports: (u16, u16), proto: u32) -> Option<Flow> {
        self.flow_in(0, pair, ports, proto)
    }

    /// The same in a zone.
    pub(crate) fn flow_in(&self, zone: u32, pair: &Pair, ports: (u16, u16), proto: u32) -> Option<Flow> {
        let confirmed = self.record(FLOW_TABLES, zone, pair, ports, proto);
        confirmed.or_else(|| self.record(OPENER_TABLES, zone, pair, ports, proto))
    }

    /// Whether a TCP flow is in the flow table.
    pub(crate) fn is_confirmed(&self, pair: &Pair, ports: (u16, u16)) -> bool {
        self.record(FLOW_TABLES, 0, pair, ports, 6).is_some()
    }

    fn record(
        &self,
        tables: [&str; 2],
        zone: u32,
        pair: &Pair,
        ports: (u16, u16),
        proto: u32,
    ) -> Option<Flow> {
        let (client_port, service_port) = ports;
        match (pair.client, pair.service) {
            (IpAddr::V4(client), IpAddr::V4(service)) => {
                let (client, service) = (client.octets(), service.octets());
                let key = FlowKey4 { client, service, client_port, service_port, proto, zone, reserved: 0 };
                let map = self.ebpf.map(tables[0]).unwrap();
                BpfHashMap::<_, FlowKey4, Flow>::try_from(map).unwrap().get(&key, 0).ok()
            }
            (IpAddr::V6(client), IpAddr::V6(service)) => {
                let (client, service) = (client.octets(), service.octets());
                let key = FlowKey6 { client, service, client_port, service_port, proto, zone, reserved: 0 };
                let map = self.ebpf.map(tables[1]).unwrap();
                let map = BpfHashMap::<_, FlowDigest6, Flow6>::try_from(map).unwrap();
                map.get(&key.digest(&GLOBALS.secret), 0)
                    .ok()
                    .filter(|it| it.is_between(&key.client, &key.service))
                    .map(|it| it.flow)
            }
            _ => panic!("one family"),
        }
    }

    /// Flows of both families, confirmed or not.
    pub(crate) fn flow_count(&self) -> usize {
        let counts = [FLOW_TABLES, OPENER_TABLES].map(|[v4, v6]| {
            let (v4, v6) = (self.ebpf.map(v4).unwrap(), self.ebpf.map(v6).unwrap());
            BpfHashMap::<_, FlowKey4, Flow>::try_from(v4).unwrap().keys().count()
                + BpfHashMap::<_, FlowDigest6, Flow6>::try_from(v6).unwrap().keys().count()
        });
        counts.iter().sum()
    }

    /// Bytes that a map takes in the kernel.
    pub(crate) fn memory(&self, map: &str) -> u64 {
        let (aya::maps::Map::LruHashMap(map) | aya::maps::Map::Array(map)) = self.ebpf.map(map).unwrap()
        else {
            panic!("another kind of map")
        };
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).unwrap();
        let field = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        field.trim().parse().unwrap()
    }

    /// One counter of a slot, summed over the CPUs.
    pub(crate) fn count(&self, slot: u32, field: impl Fn(&Counters) -> u64) -> u64 {
        let map = self.ebpf.map(maps::names::COUNTERS).unwrap();
        let map = PerCpuArray::<_, Counters>::try_from(map).unwrap();
        map.get(&slot, 0).unwrap().iter().map(field).sum()
    }

    /// `rp_ingress` on a frame that arrives from the router behind `good`.
    pub(crate) fn ingress(&self, device: &str, frame: &[u8]) -> i32 {
        self.ingress_from(ROUTER, device, frame)
    }

    pub(crate) fn ingress_from(&self, source: [u8; 6], device: &str, frame: &[u8]) -> i32 {
        self.test(maps::programs::INGRESS, device, self.mac(device), source, frame).0
    }

    /// `rp_egress` on a frame that the device itself sends.
    pub(crate) fn egress(&self, device: &str, frame: &[u8]) -> i32 {
        self.egress_out(device, frame).0
    }

    /// The same, and the frame afterwards.
    pub(crate) fn egress_out(&self, device: &str, frame: &[u8]) -> (i32, Vec<u8>) {
        self.test(maps::programs::EGRESS, device, [0x02, 0, 0, 0, 0, 0x99], self.mac(device), frame)
    }

    pub(crate) fn sink(&self, device: &str, frame: &[u8]) -> i32 {
        self.test(maps::programs::SINK, device, [0; 6], self.mac(device), frame).0
    }

    /// Any program, with MACs as they are told.
    pub(crate) fn test(
        &self,
        program: &str,
        device: &str,
        destination: [u8; 6],
        source: [u8; 6],
        frame: &[u8],
    ) -> (i32, Vec<u8>) {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        self.run_program(program, &frame, &[(skb::IFINDEX, self.index(device))])
    }

    /// `rp_egress` on a packet of several segments with `size` bytes of payload each.
    pub(crate) fn egress_segmented(&self, device: &str, frame: &[u8], size: u32) -> i32 {
        let mut frame = frame.to_vec();
        frame[6..12].copy_from_slice(&self.mac(device));
        let fields = [(skb::IFINDEX, self.index(device)), (skb::GSO_SIZE, size), (skb::GSO_SEGMENTS, 2)];
        self.run_program(maps::programs::EGRESS, &frame, &fields).0
    }

    fn run_program(&self, program: &str, frame: &[u8], fields: &[(usize, u32)]) -> (i32, Vec<u8>) {
        let mut context = vec![0; skb::LENGTH];
        for (offset, value) in fields {
            context[*offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut out = vec![0; frame.len() + 256];
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        (result.return_value.cast_signed(), out)
    }

    pub(crate) fn verified_instructions(&self) -> Vec<(&'static str, u32)> {
        [maps::programs::INGRESS, maps::programs::EGRESS, maps::programs::SINK]
            .map(|name| {
                let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
                (name, program.info().unwrap().verified_instruction_count().unwrap_or_default())
            })
            .to_vec()
    }
}

fn load(entries: u32) -> Ebpf {
    let other = std::env::var_os("BACKTRAIL_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
    let mut loader = aya::EbpfLoader::new();
    for (table, openers) in FLOW_TABLES.into_iter().zip(OPENER_TABLES) {
        loader.map_max_entries(table, entries).map_max_entries(openers, maps::openers(entries));
    }
    let mut ebpf = loader.load(other.as_deref().unwrap_or(backtrail_ebpf_common::OBJECT)).unwrap();
    for name in [maps::programs::INGRESS, maps::programs::EGRESS, maps::programs::SINK] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
    }
    ebpf
}
