//! What is inside of a BPF object: read for comparison, stripped for committing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hex;

/// SHA-256 of what the kernel gets to see.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Contents {
    /// By name: instructions, with the maps and functions that they refer to.
    pub(super) programs: BTreeMap<String, String>,
    /// Instructions of the functions that the programs call.
    pub(super) functions: String,
    /// BTF: types, and the definitions of the maps.
    pub(super) btf: String,
}

impl Contents {
    /// The parts that are not the same.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let names = self
            .programs
            .keys()
            .chain(other.programs.keys().filter(|name| !self.programs.contains_key(*name)));
        let mut parts: Vec<String> = names
            .filter(|name| self.programs.get(*name) != other.programs.get(*name))
            .map(|name| format!("program {name}"))
            .collect();
        if self.functions != other.functions {
            parts.push("functions".to_owned());
        }
        if self.btf != other.btf {
            parts.push("BTF".to_owned());
        }
        parts
    }
}

/// The object without DWARF: the kernel reads BTF alone.
pub(super) fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("the compiler's output is no ELF object")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM names sections and symbols in one table; the writer wants one for each.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut out = Vec::new();
    builder.write(&mut out).context("cannot write the stripped object")?;
    Ok(out)
}

/// Hashes of the parts of an object.
pub(super) fn contents(bytes: &[u8]) -> Result<Contents> {
    let elf = ElfFile64::<object::Endianness>::parse(bytes).context("no ELF object")?;
    let programs = elf.section_by_name("classifier").context("the object has no section `classifier`")?;
    let mut hashes = BTreeMap::new();
    for symbol in elf.symbols().filter(|symbol| symbol.section_index() == Some(programs.index())) {
        if let (true, Ok(name)) = (symbol.is_global(), symbol.name()) {
            let range = symbol.address()..symbol.address() + symbol.size();
            hashes.insert(name.to_owned(), code(&elf, programs.index(), &range)?);
        }
    }
    let functions = match elf.section_by_name(".text") {
        Some(text) => code(&elf, text.index(), &(0..text.size()))?,
        // Everything was inlined.
        None => String::new(),
    };
    let btf = elf.section_by_name(".BTF").context("the object has no BTF")?;
    Ok(Contents { programs: hashes, functions, btf: hex(&Sha256::digest(btf.data()?)) })
}

/// Hash of a range of instructions and of what they refer to, by name where names are stable.
fn code(
    elf: &ElfFile64<'_, object::Endianness>,
    section: SectionIndex,
    range: &std::ops::Range<u64>,
) -> Result<String> {
    let section = elf.section_by_index(section)?;
    let bytes = section.data_range(range.start, range.end - range.start)?.context("a symbol lies outside")?;
    let mut hash = Sha256::new();
    hash.update(bytes);
    for (offset, relocation) in section.relocations().filter(|(offset, _)| range.contains(offset)) {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = elf.symbol_by_index(index)?;
        // A function's symbol carries the compiler's hash of its crate; its address says which one it is.
        let target =
            if symbol.is_global() { symbol.name()?.to_owned() } else { format!("{:#x}", symbol.address()) };
        hash.update(format!("{} {target}\n", offset - range.start));
    }
    Ok(hex(&hash.finalize()))
}
