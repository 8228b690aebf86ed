//! The allocator of a program that is linked with musl.
//!
//! That of musl keeps memory small, and has one lock for all threads. Here each thread keeps a few blocks of each size that it has freed, as
//! glibc's does, so that most allocations take no lock and look for nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// Alignment of every block of the C library; what needs more is left to that.
const ALIGN: usize = 16;
/// Between the sizes of small blocks.
const SMALL_STEP: usize = 16;
/// The largest small block.
const SMALL: usize = 1024;
/// Between the sizes of medium blocks.
const MEDIUM_STEP: usize = 128;
/// The largest medium block.
const MEDIUM: usize = 4096;
/// Sizes of large blocks, up to twice as much: buffers.
const STEPS_PER_DOUBLING: usize = 4;
/// The largest block that is kept.
const LARGE: usize = 32 * 1024;
const SMALL_CLASSES: usize = SMALL / SMALL_STEP;
const MEDIUM_CLASSES: usize = (MEDIUM - SMALL) / MEDIUM_STEP;
const LARGE_CLASSES: usize = (LARGE / MEDIUM).ilog2() as usize * STEPS_PER_DOUBLING;
const CLASSES: usize = SMALL_CLASSES + MEDIUM_CLASSES + LARGE_CLASSES;
/// Bytes of each size that a thread keeps, and the fewest and most blocks.
const KEPT_BYTES: usize = 8 * 1024;
const KEPT_LEAST: usize = 1;
const KEPT_MOST: usize = 16;

/// Caches of threads before the C library's allocator.
#[derive(Clone, Copy, Debug)]
pub struct Cached;

/// A block that is kept: in its first bytes is the next of its size.
struct Block {
    next: *mut Block,
}

/// What a thread keeps.
struct Cache {
    first: [Cell<*mut Block>; CLASSES],
    count: [Cell<u8>; CLASSES],
    state: Cell<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was kept yet, and nobody empties it at the end of the thread.
    Unused,
    InUse,
    /// The thread ends.
    Closed,
}

/// Empties the cache of a thread that ends.
struct AtEnd;

thread_local! {
    static CACHE: Cache = const { Cache::new() };
    static AT_END: AtEnd = const { AtEnd };
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        CACHE.with(|cache| {
            cache.state.set(State::Closed);
            cache.empty();
        });
    }
}

impl Cache {
    const fn new() -> Cache {
        Cache {
            first: [const { Cell::new(ptr::null_mut()) }; CLASSES],
            count: [const { Cell::new(0) }; CLASSES],
            state: Cell::new(State::Unused),
        }
    }

    fn take(&self, class: usize) -> Option<*mut u8> {
        let block = self.first[class].get();
        if block.is_null() {
            return None;
        }
        // SAFETY: what is in the list was written by `put`, and nobody else has it.
        let next = unsafe { (*block).next };
        self.first[class].set(next);
        self.count[class].set(self.count[class].get() - 1);
        Some(block.cast())
    }

    /// Keeps a block, unless there are enough.
    fn put(&self, class: usize, block: *mut u8) -> bool {
        let count = self.count[class].get();
        if usize::from(count) >= kept(size_of_class(class)) || !self.is_open() {
            return false;
        }
        let block: *mut Block = block.cast();
        // SAFETY: the block is free, as large as the smallest class at least, which a pointer fits into, and aligned for one.
        unsafe { (*block).next = self.first[class].get() };
        self.first[class].set(block);
        self.count[class].set(count + 1);
        true
    }

    /// From the first block on, something has to be done at the end of the thread.
    fn is_open(&self) -> bool {
        match self.state.get() {
            State::InUse => true,
            State::Closed => false,
            State::Unused => {
                // What this takes, and gives back, comes from the C library.
                self.state.set(State::Closed);
                let is_registered = AT_END.try_with(|_| ()).is_ok();
                if is_registered {
                    self.state.set(State::InUse);
                }
                is_registered
            }
        }
    }

    fn empty(&self) {
        for class in 0..CLASSES {
            while let Some(block) = self.take(class) {
                // SAFETY: it is of this class, so it was allocated with this layout.
                unsafe { System.dealloc(block, layout_of_class(class)) };
            }
        }
    }
}

/// Gives the blocks that this thread keeps back to the C library.
#[cfg(any(test, target_env = "musl"))]
pub(crate) fn give_back() {
    CACHE.with(Cache::empty);
}

/// Blocks of this size that a thread keeps.
const fn kept(size: usize) -> usize {
    let count = KEPT_BYTES / size;
    if count < KEPT_LEAST {
        KEPT_LEAST
    } else if count > KEPT_MOST {
        KEPT_MOST
    } else {
        count
    }
}

/// The class of the blocks that such a layout gets; `None` if they are not kept.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if layout.align() > ALIGN || size == 0 || size > LARGE {
        return None;
    }
    Some(if size <= SMALL {
        (size - 1) / SMALL_STEP
    } else if size <= MEDIUM {
        SMALL_CLASSES + (size - 1 - SMALL) / MEDIUM_STEP
    } else {
        let doubling = (size - 1).ilog2() - MEDIUM.ilog2();
        let step = (MEDIUM / STEPS_PER_DOUBLING) << doubling;
        let within = (size - 1 - (MEDIUM << doubling)) / step;
        SMALL_CLASSES + MEDIUM_CLASSES + doubling as usize * STEPS_PER_DOUBLING + within
    })
}

/// The size of the blocks of a class.
const fn size_of_class(class: usize) -> usize {
    if class < SMALL_CLASSES {
        return (class + 1) * SMALL_STEP;
    }
    let class = class - SMALL_CLASSES;
    if class < MEDIUM_CLASSES {
        return SMALL + (class + 1) * MEDIUM_STEP;
    }
    let class = class - MEDIUM_CLASSES;
    let base = MEDIUM << (class / STEPS_PER_DOUBLING);
    base + base / STEPS_PER_DOUBLING * (class % STEPS_PER_DOUBLING + 1)
}

fn layout_of_class(class: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the size far from the largest.
    unsafe { Layout::from_size_align_unchecked(size_of_class(class), ALIGN) }
}

// SAFETY: blocks come from `System`, each with the layout of its class, which is at least as large as what is asked for; the class follows
// from the layout alone, so `dealloc` and `realloc` find the one that `alloc` chose. A block in a cache is nobody else's.
unsafe impl GlobalAlloc for Cached {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        match CACHE.with(|cache| cache.take(class)) {
            Some(block) => block,
            // SAFETY: no class has size 0.
            None => unsafe { System.alloc(layout_of_class(class)) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            // SAFETY: the caller's promise, and it was allocated with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        if !CACHE.with(|cache| cache.put(class, block)) {
            // SAFETY: it was allocated with the layout of its class.
            unsafe { System.dealloc(block, layout_of_class(class)) };
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            // SAFETY: the caller's promise. Fresh pages are zero already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has that many bytes at least.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, is no more than the largest.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class_of(layout), class_of(wanted)) {
            (Some(before), Some(after)) if before == after => return block,
            // SAFETY: the caller's promise, and it was allocated with this layout.
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            _ => {}
        }
        // SAFETY: the caller promises that the size is not 0.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: two blocks, each as long as what is copied at least.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the caller's promise; nobody uses it any more.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).expect("small")
    }

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for size in 1..=LARGE {
            let class = class_of(layout(size)).expect("it is kept");
            assert!(size_of_class(class) >= size, "{size}");
            assert!(class == 0 || size_of_class(class - 1) < size, "{size}");
        }
        assert_eq!(class_of(layout(LARGE)), Some(CLASSES - 1));
        assert_eq!(class_of(layout(LARGE + 1)), None);
        assert_eq!(class_of(layout(0)), None);
        assert_eq!(class_of(Layout::from_size_align(64, 64).expect("small")), None);
    }

    #[test]
    fn a_freed_block_is_used_again_and_not_twice() {
        let layout = layout(100);
        // SAFETY: a size that is not 0.
        let block = || unsafe { Cached.alloc(layout) };
        let first = block();
        // SAFETY: it is ours, and of this layout.
        unsafe { Cached.dealloc(first, layout) };
        let (again, other) = (block(), block());
        assert_eq!(again, first);
        assert_ne!(other, first);
        for it in [again, other] {
            // SAFETY: it is ours, and of this layout.
            unsafe { Cached.dealloc(it, layout) };
        }
        give_back();
        CACHE.with(|cache| assert!(cache.first.iter().all(|first| first.get().is_null())));
    }

    #[test]
    fn no_thread_keeps_more_than_it_should() {
        let layout = layout(LARGE);
        let blocks: Vec<usize> = (0..40)
            // SAFETY: a size that is not 0.
            .map(|_| unsafe { Cached.alloc(layout) }.expose_provenance())
            .collect();
        for block in blocks {
            // SAFETY: it is ours, and of this layout.
            unsafe { Cached.dealloc(ptr::with_exposed_provenance_mut(block), layout) };
        }
        let all: usize = (0..CLASSES)
            .map(|class| kept(size_of_class(class)) * size_of_class(class))
            .sum();
        assert!(all < 1024 * 1024, "{all}");
        CACHE.with(|cache| assert_eq!(usize::from(cache.count[CLASSES - 1].get()), kept(LARGE)));
    }

    /// Blocks of all sizes, in several threads that pass them on to each other, each filled with a letter of its own.
    #[test]
    fn what_is_in_a_block_stays_there() {
        let (sender, receiver) = std::sync::mpsc::channel::<(usize, usize, u8)>();
        let free = |(block, size, letter): (usize, usize, u8)| {
            let block = ptr::with_exposed_provenance_mut::<u8>(block);
            // SAFETY: it is as long as that, and was written.
            let bytes = unsafe { std::slice::from_raw_parts(block, size) };
            assert!(
                bytes.iter().all(|byte| *byte == letter),
                "{size} bytes of {letter}"
            );
            // SAFETY: it was passed on to us alone.
            unsafe { Cached.dealloc(block, layout(size)) };
        };
        std::thread::scope(|scope| {
            for letter in 1..=4_u8 {
                let sender = sender.clone();
                scope.spawn(move || {
                    for step in 0..4000_usize {
                        let size = (step * 977 * usize::from(letter)) % 40_000 + 1;
                        // SAFETY: a size that is not 0.
                        let block = unsafe { Cached.alloc_zeroed(layout(size)) };
                        // SAFETY: it is as long as that, and zero.
                        let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
                        assert!(bytes.iter().all(|byte| *byte == 0), "{size} bytes of zero");
                        bytes.fill(letter);
                        let other = (size * 7) % 50_000 + 1;
                        // SAFETY: it is ours, and of this layout.
                        let block = unsafe { Cached.realloc(block, layout(size), other) };
                        // SAFETY: it has `other` bytes; what is new in it may be anything.
                        unsafe { block.write_bytes(letter, other) };
                        let passed = (block.expose_provenance(), other, letter);
                        if step % 3 == 0 {
                            free(passed);
                        } else {
                            sender.send(passed).expect("it is received");
                        }
                    }
                });
            }
            drop(sender);
            scope.spawn(move || receiver.into_iter().for_each(free));
        });
    }
}
