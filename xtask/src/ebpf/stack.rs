//! What the oldest supported verifier would refuse, found without a kernel.
//!
//! Linux 6.1 adds up the stack frames along every chain of calls, each rounded up to 32 bytes, and refuses more than 512
//! (`check_max_stack_depth` in kernel/bpf/verifier.c); newer kernels round to less, and let such objects pass.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// Bytes of stack along a chain of calls (`MAX_BPF_STACK`).
const MAX_STACK: usize = 512;
/// Unit in which a frame is counted.
const FRAME_UNIT: usize = 32;
/// Functions in a chain of calls (`MAX_CALL_FRAMES`).
const MAX_FRAMES: usize = 8;
/// Instructions of a program with all functions that it calls: half as many again as the largest has.
pub(super) const MAX_INSTRUCTIONS: usize = 6000;

/// Length of an instruction.
const INSTRUCTION: usize = 8;
/// The frame pointer.
const R10: u8 = 10;
/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`: a call of a function in the object.
const TO_FUNCTION: u8 = 1;
/// `BPF_ALU64 | BPF_MOV | BPF_X`
const MOVE: u8 = 0xbf;
/// `BPF_ALU64 | BPF_ADD | BPF_K`
const ADD: u8 = 0x07;
/// Instruction classes that load and store: `BPF_LDX`, `BPF_ST`, `BPF_STX`.
const LOAD: u8 = 1;
const STORES: [u8; 2] = [2, 3];

/// Name and address of a function, by section.
type Address = (usize, u64);

/// What is known of a function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: String,
    /// Stack of its own, bytes.
    pub(super) frame: usize,
    pub(super) instructions: usize,
    pub(super) calls: Vec<Address>,
}

/// The costliest way through a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) program: String,
    /// Bytes as Linux 6.1 counts them.
    pub(super) stack: usize,
    /// The chain that needs them.
    pub(super) chain: Vec<String>,
    /// Of the program and of all functions that it calls, each once.
    pub(super) instructions: usize,
}

/// Holds every program of an object to the limits; returns what they cost.
pub(super) fn check(bytes: &[u8]) -> Result<Vec<Cost>> {
    let (functions, programs) = functions(bytes)?;
    let costs: Vec<Cost> =
        programs.iter().map(|program| cost(&functions, *program)).collect::<Result<_>>()?;
    for Cost { program, stack, chain, instructions } in &costs {
        let way = chain.join(" > ");
        ensure!(
            *stack <= MAX_STACK,
            "{program}: Linux 6.1 refuses {stack} bytes of stack, {MAX_STACK} is its limit: {way}"
        );
        ensure!(chain.len() <= MAX_FRAMES, "{program}: more than {MAX_FRAMES} functions in a chain: {way}");
        ensure!(
            *instructions <= MAX_INSTRUCTIONS,
            "{program} has {instructions} instructions, budget {MAX_INSTRUCTIONS}"
        );
    }
    Ok(costs)
}

fn cost(functions: &BTreeMap<Address, Function>, program: Address) -> Result<Cost> {
    let mut seen = BTreeMap::new();
    let (stack, chain) = deepest(functions, program, &mut Vec::new(), &mut seen)?;
    let name = functions.get(&program).map(|function| function.name.clone()).unwrap_or_default();
    Ok(Cost { program: name, stack, chain, instructions: seen.values().sum() })
}

/// The chain of calls from a function on that needs the most stack.
fn deepest(
    functions: &BTreeMap<Address, Function>,
    at: Address,
    above: &mut Vec<Address>,
    seen: &mut BTreeMap<Address, usize>,
) -> Result<(usize, Vec<String>)> {
    let function = functions.get(&at).with_context(|| format!("a call leads to {at:x?}, no function"))?;
    ensure!(!above.contains(&at), "{} calls itself", function.name);
    seen.insert(at, function.instructions);
    above.push(at);
    let mut below = (0, Vec::new());
    for call in &function.calls {
        let found = deepest(functions, *call, above, seen)?;
        if found.0 > below.0 {
            below = found;
        }
    }
    above.pop();
    let mut chain = vec![format!("{} ({} bytes)", function.name, function.frame)];
    chain.extend(below.1);
    Ok((function.frame.max(1).next_multiple_of(FRAME_UNIT) + below.0, chain))
}

/// All functions of an object, and which of them are programs.
fn functions(bytes: &[u8]) -> Result<(BTreeMap<Address, Function>, Vec<Address>)> {
    let elf = ElfFile64::<object::Endianness>::parse(bytes).context("no ELF object")?;
    let mut functions = BTreeMap::new();
    let mut programs = Vec::new();
    for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let Some(index) = symbol.section_index() else { continue };
        let section = elf.section_by_index(index)?;
        let code = section.data_range(symbol.address(), symbol.size())?.context("a symbol lies outside")?;
        let mut targets = BTreeMap::new();
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(target) = relocation.target() else { continue };
            let target = elf.symbol_by_index(target)?;
            if let Some(of) = target.section_index() {
                targets.insert(offset, (of.0, target.address(), target.kind() == SymbolKind::Section));
            }
        }
        let at = (index.0, symbol.address());
        let mut function = scan(code);
        function.name = symbol.name()?.to_owned();
        for (offset, immediate) in calls(code) {
            let offset = symbol.address() + offset;
            let relative = |from: u64| {
                from.checked_add_signed((i64::from(immediate) + 1) * INSTRUCTION as i64)
                    .context("a call leads out")
            };
            function.calls.push(match targets.get(&offset) {
                Some((section, _, true)) => (*section, relative(0)?),
                Some((section, address, false)) => (*section, *address),
                None => (index.0, relative(offset)?),
            });
        }
        if section.name()? == "classifier" {
            programs.push(at);
        }
        functions.insert(at, function);
    }
    ensure!(!programs.is_empty(), "the object has no programs");
    Ok((functions, programs))
}

/// Frame and length of a function: the lowest address below the frame pointer that it names.
fn scan(code: &[u8]) -> Function {
    let mut frame = 0;
    let mut from_r10 = [false; 16];
    let mut deeper = |offset: i64| frame = frame.max(usize::try_from(-offset).unwrap_or(0));
    for instruction in code.chunks_exact(INSTRUCTION) {
        let [opcode, registers, o1, o2, i1, i2, i3, i4] = *instruction else { continue };
        let (to, from) = (registers & 0x0f, registers >> 4);
        let offset = i64::from(i16::from_le_bytes([o1, o2]));
        let immediate = i64::from(i32::from_le_bytes([i1, i2, i3, i4]));
        let class = opcode & 0x07;
        if (class == LOAD && from == R10) || (STORES.contains(&class) && to == R10) {
            deeper(offset);
        }
        if opcode == ADD && from_r10.get(usize::from(to)) == Some(&true) {
            deeper(immediate);
        }
        if let Some(known) = from_r10.get_mut(usize::from(to)) {
            *known = opcode == MOVE && from == R10;
        }
    }
    Function { name: String::new(), frame, instructions: code.len() / INSTRUCTION, calls: Vec::new() }
}

/// Offset and immediate of each call of a function in the object.
fn calls(code: &[u8]) -> impl Iterator<Item = (u64, i32)> {
    (0..).step_by(INSTRUCTION).zip(code.chunks_exact(INSTRUCTION)).filter_map(|(offset, instruction)| {
        let [CALL, registers, _, _, i1, i2, i3, i4] = *instruction else { return None };
        (registers >> 4 == TO_FUNCTION).then(|| (offset, i32::from_le_bytes([i1, i2, i3, i4])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, frame: usize, calls: &[u64]) -> Function {
        let calls = calls.iter().map(|address| (1, *address)).collect();
        Function { name: name.to_owned(), frame, instructions: 10, calls }
    }

    #[test]
    fn frames_are_rounded_up_and_added_along_the_deepest_chain() {
        let functions = BTreeMap::from([
            ((1, 0), function("program", 1, &[8, 16])),
            ((1, 8), function("shallow", 0, &[])),
            ((1, 16), function("deep", 33, &[8])),
        ]);
        let cost = cost(&functions, (1, 0)).expect("a chain");
        assert_eq!((cost.stack, cost.instructions), (32 + 64 + 32, 30));
        assert_eq!(cost.chain, ["program (1 bytes)", "deep (33 bytes)", "shallow (0 bytes)"]);
    }

    #[test]
    fn a_frame_is_as_deep_as_the_lowest_address_that_is_named() {
        // r2 = r10; r2 += -40; *(u64 *)(r10 - 16) = r1; r1 = *(u32 *)(r10 - 48)
        let code = [
            [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
            [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff],
            [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
            [0x61, 0xa1, 0xd0, 0xff, 0, 0, 0, 0],
        ];
        assert_eq!(scan(code.as_flattened()).frame, 48);
        // r1 += -80 names no stack: r1 is no frame pointer any more.
        let code = [
            [0xbf, 0xa1, 0, 0, 0, 0, 0, 0],
            [0xbf, 0x21, 0, 0, 0, 0, 0, 0],
            [0x07, 0x01, 0, 0, 0xb0, 0xff, 0xff, 0xff],
        ];
        assert_eq!(scan(code.as_flattened()).frame, 0);
    }

    #[test]
    fn a_function_that_calls_itself_is_refused() {
        let functions = BTreeMap::from([((1, 0), function("program", 0, &[0]))]);
        assert!(cost(&functions, (1, 0)).is_err());
    }

    #[test]
    fn the_committed_object_keeps_to_the_limits() {
        let bytes = std::fs::read(crate::cargo::root().join(super::super::AGENT.object))
            .expect("the committed object");
        let costs = check(&bytes).expect("within the limits");
        assert!(costs.iter().all(|cost| cost.stack >= FRAME_UNIT && cost.instructions > 0));
    }
}
