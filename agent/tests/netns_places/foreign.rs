//! Programs of others: made here, instruction by instruction.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use backtrail::steering::features;
use backtrail_lab::Namespace;
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// `TCX_NEXT`
pub(crate) const NEXT: i32 = -1;
/// `TCX_PASS`: on to the network, past all programs that come later.
pub(crate) const PASS: i32 = 0;
/// `TCX_DROP`
pub(crate) const DROP: i32 = 2;

/// Where in the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Before what is there: first on a TCX hook, else a clsact filter of preference 1.
    Before,
    /// Behind what is there: last on a TCX hook, else a clsact filter of preference 7.
    Behind,
    /// A clsact filter of this preference, on every kernel.
    Filter(u16),
}

/// A program of somebody else's on an interface; detached when dropped.
pub(crate) struct Foreign {
    ebpf: Option<Ebpf>,
    node: Namespace,
}

impl Foreign {
    /// Loads a program and attaches it.
    pub(crate) fn attach(
        node: &Namespace,
        (interface, side): (&str, TcAttachType),
        order: Order,
        code: &[Instruction],
    ) -> Result<Self> {
        let mut ebpf = Ebpf::load(&object(code)?)?;
        let program: &mut SchedClassifier = ebpf.program_mut(NAME).context(NAME)?.try_into()?;
        program.load()?;
        let filter = |priority| {
            TcAttachOptions::Netlink(NlOptions { priority, handle: TcHandle::new(0, 9), classid: None })
        };
        let options = match order {
            Order::Before if features().tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Order::Behind if features().tcx => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Order::Before => filter(1),
            Order::Behind => filter(7),
            Order::Filter(preference) => filter(preference),
        };
        node.enter(|| {
            if matches!(options, TcAttachOptions::Netlink(_)) {
                // It may be there.
                tc::qdisc_add_clsact(interface).ok();
            }
            program.attach_with_options(interface, side, options)
        })??;
        Ok(Self { ebpf: Some(ebpf), node: node.clone() })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // A filter is deleted by its interface's index, which another namespace has, too.
        let ebpf = self.ebpf.take();
        self.node.enter(|| drop(ebpf)).ok();
    }
}

/// Name of the program in its object.
const NAME: &str = "foreign";

fn object(code: &[Instruction]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    let value = object.append_section_data(text, &code.concat(), 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value,
        size: u64::try_from(code.len() * 8)?,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}

/// `struct bpf_insn`
pub(crate) type Instruction = [u8; 8];

/// Opcodes (linux/bpf.h, linux/bpf_common.h): 32-bit moves zero the upper half.
mod op {
    pub(super) const MOVE_NUMBER: u8 = 0xb4;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const ADD_NUMBER: u8 = 0x07;
    pub(super) const LOAD_BYTE: u8 = 0x71;
    pub(super) const LOAD_HALF: u8 = 0x69;
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const STORE_WORD: u8 = 0x62;
    pub(super) const SKIP_IF_EQUAL: u8 = 0x16;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
}

/// Helpers, by their numbers in linux/bpf.h.
mod helper {
    pub(super) const STORE_BYTES: i32 = 9;
    pub(super) const L3_CHECKSUM: i32 = 10;
    pub(super) const L4_CHECKSUM: i32 = 11;
    pub(super) const REDIRECT: i32 = 23;
    pub(super) const LOAD_BYTES: i32 = 26;
    pub(super) const REDIRECT_NEIGHBOUR: i32 = 152;
}

/// The frame pointer.
const FRAME: u8 = 10;

fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> Instruction {
    let ([o0, o1], [n0, n1, n2, n3]) = (offset.to_le_bytes(), number.to_le_bytes());
    [code, to | from << 4, o0, o1, n0, n1, n2, n3]
}

fn set(register: u8, number: i32) -> Instruction {
    instruction(op::MOVE_NUMBER, register, 0, 0, number)
}

fn copy(register: u8, from: u8) -> Instruction {
    instruction(op::MOVE, register, from, 0, 0)
}

/// The register becomes an address on the stack.
fn stack(register: u8, offset: i32) -> [Instruction; 2] {
    [copy(register, FRAME), instruction(op::ADD_NUMBER, register, 0, 0, offset)]
}

fn call(helper: i32) -> Instruction {
    instruction(op::CALL, 0, 0, 0, helper)
}

/// Ends the program.
fn end(verdict: i32) -> [Instruction; 2] {
    [set(0, verdict), instruction(op::EXIT, 0, 0, 0, 0)]
}

/// Ends the program with `NEXT` unless the register has this value.
fn expect(register: u8, number: i32) -> [Instruction; 3] {
    let [next, exit] = end(NEXT);
    [instruction(op::SKIP_IF_EQUAL, register, 0, 2, number), next, exit]
}

/// Where the stack has bytes of the packet.
const BYTES: i16 = -16;

/// Reads bytes of the packet, 16 at most, to the stack; register 6 is the context.
fn read(at: i32, bytes: i32) -> Vec<Instruction> {
    let [address, offset] = stack(3, i32::from(BYTES));
    let mut code = vec![copy(1, 6), set(2, at), address, offset, set(4, bytes), call(helper::LOAD_BYTES)];
    code.extend(expect(0, 0));
    code
}

/// A program that returns this verdict.
pub(crate) fn verdict(verdict: i32) -> Vec<Instruction> {
    end(verdict).to_vec()
}

/// A program that sends every packet out by this interface.
pub(crate) fn redirect(ifindex: u32) -> Vec<Instruction> {
    let mut code = Hop::Frame(ifindex, None).code();
    code.push(instruction(op::EXIT, 0, 0, 0, 0));
    code
}

/// How a balancer passes on what it has translated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hop {
    /// By an interface, to whom the routing table says (`bpf_redirect_neigh`).
    Neighbour(u32),
    /// The frame as it is by an interface (`bpf_redirect`), with other MACs if they are given.
    Frame(u32, Option<[u8; 12]>),
}

impl Hop {
    fn code(self) -> Vec<Instruction> {
        let (ifindex, macs, helper) = match self {
            Self::Neighbour(ifindex) => (ifindex, None, helper::REDIRECT_NEIGHBOUR),
            Self::Frame(ifindex, macs) => (ifindex, macs, helper::REDIRECT),
        };
        let mut code = Vec::new();
        if let Some(macs) = macs {
            for (word, offset) in macs.chunks_exact(4).zip([-16, -12, -8]) {
                let number = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                code.push(instruction(op::STORE_WORD, FRAME, 0, offset, number));
            }
            let [address, offset] = stack(3, -16);
            code.extend([copy(1, 6), set(2, 0), address, offset, set(4, 12), set(5, 0)]);
            code.push(call(helper::STORE_BYTES));
        }
        let ifindex = i32::from_ne_bytes(ifindex.to_ne_bytes());
        code.extend([set(1, ifindex), set(2, 0), set(3, 0), set(4, 0), call(helper)]);
        code
    }
}

/// One direction of an eBPF load balancer, of TCP and UDP without options: the packets that have one address and port get
/// another address of the same family, and are redirected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Translation {
    /// The address to replace: destination of requests, source of replies.
    pub(crate) from: IpAddr,
    /// What it becomes.
    pub(crate) to: IpAddr,
    /// The service's port, on both sides of the translation.
    pub(crate) port: u16,
    /// Whether this is about requests.
    pub(crate) requests: bool,
    /// Where they go.
    pub(crate) hop: Hop,
}

/// Where the fields of a frame are, in bytes from its beginning.
struct Layout {
    /// Of the context, as a program reads it.
    protocol: i32,
    source: i32,
    destination: i32,
    next_header: i32,
    l4: i32,
    /// Of the L3 header, where it has one.
    checksum: Option<i32>,
}

const IPV4: Layout =
    Layout { protocol: 0x0008, source: 26, destination: 30, next_header: 23, l4: 34, checksum: Some(24) };
const IPV6: Layout =
    Layout { protocol: 0xdd86, source: 22, destination: 38, next_header: 20, l4: 54, checksum: None };

/// An address as a program reads and stores it.
fn words(address: IpAddr) -> Vec<i32> {
    let word = |bytes: &[u8; 4]| i32::from_le_bytes(*bytes);
    match address {
        IpAddr::V4(address) => vec![word(&address.octets())],
        IpAddr::V6(address) => address.octets().as_chunks().0.iter().map(word).collect(),
    }
}

impl Translation {
    /// The program: for the ingress of the interface where the packets arrive.
    pub(crate) fn code(self) -> Vec<Instruction> {
        /// `BPF_F_PSEUDO_HDR`, and the length of the field.
        const IN_PSEUDO_HEADER: i32 = 0x10 | 4;
        let layout = if self.from.is_ipv4() { IPV4 } else { IPV6 };
        let (address_at, port_at) =
            if self.requests { (layout.destination, layout.l4 + 2) } else { (layout.source, layout.l4) };
        let (from, to) = (words(self.from), words(self.to));
        let bytes = i32::try_from(from.len() * 4).unwrap_or_default();
        let places = (BYTES..).step_by(4);
        let mut code = vec![copy(6, 1), instruction(op::LOAD_WORD, 2, 6, 16, 0)];
        code.extend(expect(2, layout.protocol));
        code.extend(read(address_at, bytes));
        for (word, place) in from.iter().zip(places.clone()) {
            code.push(instruction(op::LOAD_WORD, 2, FRAME, place, 0));
            code.extend(expect(2, *word));
        }
        code.extend(read(port_at, 2));
        code.push(instruction(op::LOAD_HALF, 2, FRAME, BYTES, 0));
        code.extend(expect(2, i32::from(self.port.to_be())));
        code.extend(read(layout.next_header, 1));
        // Where the checksum is: TCP's, or UDP's.
        code.push(instruction(op::LOAD_BYTE, 2, FRAME, BYTES, 0));
        code.extend([
            set(7, layout.l4 + 16),
            instruction(op::SKIP_IF_EQUAL, 2, 0, 4, 6),
            set(7, layout.l4 + 6),
        ]);
        code.extend(expect(2, 17));
        for ((from, to), place) in from.into_iter().zip(to).zip(places) {
            code.extend([copy(1, 6), copy(2, 7), set(3, from), set(4, to), set(5, IN_PSEUDO_HEADER)]);
            code.push(call(helper::L4_CHECKSUM));
            if let Some(at) = layout.checksum {
                code.extend([copy(1, 6), set(2, at), set(3, from), set(4, to), set(5, 4)]);
                code.push(call(helper::L3_CHECKSUM));
            }
            code.push(instruction(op::STORE_WORD, FRAME, 0, place, to));
        }
        let [address, offset] = stack(3, i32::from(BYTES));
        code.extend([copy(1, 6), set(2, address_at), address, offset, set(4, bytes), set(5, 0)]);
        code.push(call(helper::STORE_BYTES));
        code.extend(self.hop.code());
        code.push(instruction(op::EXIT, 0, 0, 0, 0));
        code
    }
}
