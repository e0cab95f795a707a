//! CPU time of processes and of threads, from the kernel's own account. Knows nothing of what they do.

use std::path::Path;

use anyhow::{Context, Result};

/// Of a process so far in ns, its threads' and its kernel workers' included.
pub fn of_process(pid: u32) -> Result<u64> {
    of_tasks(&pid.to_string(), |_| true)
}

/// Of our own threads with this name, in ns.
pub fn of_threads(name: &str) -> Result<u64> {
    of_tasks("self", |comm| comm.trim() == name)
}

/// Of the calling thread so far, in ns.
pub fn of_this_thread() -> Result<u64> {
    of_task(Path::new("/proc/thread-self"))
}

fn of_task(task: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(task.join("schedstat"))?;
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("schedstat")
}

fn of_tasks(process: &str, is_one: impl Fn(&str) -> bool) -> Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(Path::new("/proc").join(process).join("task"))? {
        let task = task?.path();
        if is_one(&std::fs::read_to_string(task.join("comm"))?) {
            total += of_task(&task)?;
        }
    }
    Ok(total)
}
