//! System calls that aya 0.14 does not offer: batches of map elements, where a link is attached, the coarse clock.
#![expect(unsafe_code, reason = "bpf(2) takes pointers; nothing here is larger than one call")]

use std::ffi::CString;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info};

use super::Direction;

/// `BPF_MPROG_MAX` of linux/bpf_mprog.h: programs on one side of an interface.
const MAX_TCX_PROGRAMS: usize = 64;

/// Calls bpf(2).
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the union is wholly initialized and outlives the call; what it points to is the caller's to keep.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(i32::MAX)) }
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which zeros are valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel gave a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link, without a gap. Linux 5.7.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link, which is defunct from then on; one that is defunct already stays so. Linux 5.9.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Where a TCX link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcxLink {
    /// Unique in the kernel.
    pub(super) id: u32,
    /// The program that runs now.
    pub(super) program: u32,
    /// 0: defunct, its device is gone.
    pub(super) ifindex: u32,
}

/// Asks the kernel about a TCX link. Linux 6.6.
pub(super) fn tcx_link(fd: BorrowedFd<'_>) -> io::Result<TcxLink> {
    let mut info = MaybeUninit::<bpf_link_info>::zeroed();
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(fd);
    attr.info.info = info.as_mut_ptr() as u64;
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(u32::MAX);
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: plain integers, zeroed before and filled by the kernel.
    let info = unsafe { info.assume_init() };
    // SAFETY: every member of the union is plain integers.
    let ifindex = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok(TcxLink { id: info.id, program: info.prog_id, ifindex })
}

/// Ids of the programs on one side of an interface, in the order in which packets meet them. Linux 6.6.
///
/// Ids only: to look a program up by its id takes CAP_SYS_ADMIN, which the agent is shipped without.
pub(super) fn tcx_programs(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let side = match direction {
        Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut ids = vec![0u32; MAX_TCX_PROGRAMS];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = side as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the count is what the kernel wrote; both members of the union are the same integer.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    Ok(ids)
}

/// A part of a hash map.
pub(super) struct Batch<K, V> {
    pub(super) entries: Vec<(K, V)>,
    /// Where the next part begins; `None` after the last.
    pub(super) next: Option<u32>,
}

/// Reads about `count` elements of a hash map, from its beginning or from where a batch before ended. Linux 5.6.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    count: u32,
) -> io::Result<Batch<K, V>> {
    let mut count = count.max(1);
    loop {
        match lookup_batch_once(map, from, count) {
            // A bucket holds more than was asked for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < 1 << 20 => count *= 2,
            result => return result,
        }
    }
}

fn lookup_batch_once<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    count: u32,
) -> io::Result<Batch<K, V>> {
    let mut keys: Vec<K> = Vec::with_capacity(count as usize);
    let mut values: Vec<V> = Vec::with_capacity(count as usize);
    let (start, mut end) = (from.unwrap_or_default(), 0u32);
    let mut attr = zeroed_attr();
    attr.batch.in_batch = if from.is_some() { &raw const start as u64 } else { 0 };
    attr.batch.out_batch = &raw mut end as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    attr.batch.map_fd = raw(map);
    let last = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    // SAFETY: `batch` is what the call was made with and what the kernel wrote.
    let read = unsafe { attr.batch.count }.min(count) as usize;
    // SAFETY: the kernel wrote so many keys and values, all of plain data, and capacity was there for them.
    unsafe {
        keys.set_len(read);
        values.set_len(read);
    }
    Ok(Batch { entries: keys.into_iter().zip(values).collect(), next: (!last).then_some(end) })
}

/// Whether a map has a key; to ask does not make an element of an LRU map look used. `V` is the map's value.
pub(super) fn has_key<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes elements of a hash map; those that are not there any more are passed over. Linux 5.6.
pub(super) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = zeroed_attr();
        attr.batch.keys = rest.as_ptr() as u64;
        attr.batch.count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        attr.batch.map_fd = raw(map);
        let result = bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr);
        // SAFETY: as in `lookup_batch_once`.
        let done = unsafe { attr.batch.count } as usize;
        match result {
            Ok(_) => return Ok(()),
            // The first that is left is the one that was not there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(done + 1..).unwrap_or_default();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// CLOCK_MONOTONIC_COARSE in nanoseconds: the clock of the programs.
pub(super) fn coarse_nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec. It cannot fail: the clock exists since Linux 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Timer interrupts a second (CONFIG_HZ): the coarse clock moves with them.
pub(super) fn timer_hz() -> u32 {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec. It cannot fail: the clock exists since Linux 2.6.32.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    u32::try_from(1_000_000_000 / resolution.tv_nsec.max(1)).unwrap_or(u32::MAX)
}

/// Random words.
pub(super) fn random<const N: usize>() -> io::Result<[u32; N]> {
    let mut bytes = [[0; 4]; N];
    std::fs::File::open("/dev/urandom")?.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u32::from_ne_bytes))
}
