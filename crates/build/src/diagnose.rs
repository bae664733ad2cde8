//! Finds the line of a failed build's log that says why it failed. Pure text work.
//!
//! A log has thousands of lines and ends with the complaint of the outermost program, which says
//! nothing ("subprocess returned exit status 2"). The cause stands further up and is known by its
//! form. Rules are tried from the most telling to the least.

/// The reason of a failure in one line, from the log of what failed.
pub fn diagnose(log: &str) -> String {
    let lines: Vec<String> = log.lines().map(clean).filter(|line| !line.is_empty()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    if let Some(reason) = dependency(&lines).or_else(|| first(&lines, machine)) {
        return cut(&reason);
    }
    // debhelper prints each of its steps: the last one that began is the one that failed.
    let step = lines.iter().rposition(|line| is_step(line));
    let segment = step.map_or(&lines[..], |at| &lines[at..]);
    let testing = step.is_some_and(|at| lines[at].contains("dh_auto_test"))
        || lines.iter().any(|line| line.starts_with("dh_auto_test: error"));
    let tests = || if testing { named_test(segment).or_else(|| named_test(&lines)) } else { None };
    let reason = tests()
        .or_else(|| compile(segment))
        .or_else(|| if testing { test(segment).or_else(|| test(&lines)) } else { None })
        .or_else(|| compile(&lines))
        .or_else(|| first(segment, tool))
        .or_else(|| first(&lines, tool))
        .or_else(|| test(&lines))
        .or_else(|| recipe(segment))
        .or_else(|| first(segment, make))
        .or_else(|| lines.iter().rev().find(|line| !is_noise(line)).map(|line| (*line).to_owned()))
        .or_else(|| lines.last().map(|line| (*line).to_owned()));
    reason.map_or_else(|| "it failed without saying why".to_owned(), |line| cut(&line))
}

/// Without colours and other control sequences; the spaces at the left stay, since steps of
/// debhelper are known by them.
fn clean(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                chars.by_ref().find(|c| ('@'..='~').contains(c));
            }
        } else if !c.is_control() || c == '\t' {
            out.push(c);
        }
    }
    out.trim_end().to_owned()
}

fn cut(line: &str) -> String {
    const LIMIT: usize = 240;
    let line = line.trim();
    if line.chars().count() <= LIMIT {
        return line.to_owned();
    }
    line.chars().take(LIMIT).chain(['…']).collect()
}

fn first(lines: &[&str], rule: fn(&str) -> Option<String>) -> Option<String> {
    lines.iter().find_map(|line| rule(line))
}

fn is_step(line: &str) -> bool {
    line.starts_with("   dh_") || line.starts_with("   debian/rules ")
}

/// apt and dpkg cannot provide what the source build-depends on.
fn dependency(lines: &[&str]) -> Option<String> {
    let unmet = lines.iter().position(|line| line.contains("have unmet dependencies"));
    if let Some(at) = unmet {
        let depends = lines[at + 1..].iter().take_while(|line| line.starts_with(' ')).find_map(|line| {
            let (_, what) = line.split_once("Depends: ").or_else(|| line.split_once("Conflicts: "))?;
            Some(what)
        })?;
        let (name, why) = depends.split_once(" but ").unwrap_or((depends, ""));
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        return Some(format!("unmet build dependency: {}{why}", name.trim()));
    }
    let checked = lines.iter().find_map(|line| line.split_once("Unmet build dependencies: "));
    checked.map(|(_, names)| format!("unmet build dependency: {names}"))
}

/// The machine or the network failed, not the source.
fn machine(line: &str) -> Option<String> {
    let line = line.trim();
    if line.contains("No space left on device") {
        return Some(format!("the disk is full: {line}"));
    }
    let resolving =
        ["Temporary failure resolving", "Could not resolve", "Temporary failure in name resolution"];
    if resolving.iter().any(|text| line.contains(text)) {
        return Some(format!("no network: {line}"));
    }
    let starving = [
        "virtual memory exhausted",
        "Killed signal terminated program",
        "Out of memory",
        "out of memory allocating",
        "Cannot allocate memory",
        "memory allocation of ",
    ];
    if starving.iter().any(|text| line.contains(text)) || line == "MemoryError" {
        return Some(format!("not enough memory: {line}"));
    }
    None
}

/// A compiler, linker, interpreter or build system names a place and what is wrong there.
fn compile(lines: &[&str]) -> Option<String> {
    lines.iter().enumerate().find_map(|(index, line)| {
        let line = line.trim();
        let next = |count: usize| lines.get(index + count).map_or("", |line| line.trim());
        if line.contains(": error: ") || line.contains(": fatal error: ") || line.contains(": ERROR: ") {
            return (!is_outer(line)).then(|| line.to_owned());
        }
        // A build script of cargo says what it misses by panicking; what cargo says of it is outer.
        if let Some(reason) = panic(line, next(1)) {
            return Some(reason);
        }
        // rustc says what on one line and where on the next.
        if line.starts_with("error[E") || line.starts_with("error: ") && next(1).starts_with("--> ") {
            return Some(match next(1).strip_prefix("--> ") {
                Some(place) => format!("{place}: {line}"),
                None => line.to_owned(),
            });
        }
        if line.contains("undefined reference to ") || line.contains("cannot find -l") {
            return Some(line.to_owned());
        }
        // cargo has no place for what is wrong around the code.
        if line.starts_with("error: ") && lines.iter().any(|line| is_cargo(line)) && !is_outer(line) {
            return Some(cargo(line, &lines[index + 1..]));
        }
        // pkg-config says it before CMake or configure complain of it.
        if let Some(missing) = line.strip_prefix("--").map(str::trim).filter(|text| is_missing_module(text)) {
            return Some(missing.to_owned());
        }
        if line.starts_with("configure: error:") {
            return Some(line.to_owned());
        }
        if let Some(place) = line.strip_prefix("CMake Error at ") {
            return Some(format!("CMake: {place} {}", next(1)));
        }
        python(line, &lines[..index])
    })
}

/// `thread 'main' panicked at`: the words and the place on one line, or, in newer ones, on two.
fn panic(line: &str, next: &str) -> Option<String> {
    let (thread, rest) = line.split_once(" panicked at ")?;
    if !thread.starts_with("thread ") {
        return None;
    }
    match rest.strip_suffix(':') {
        Some(place) => Some(format!("{place}: {next}")),
        None => Some(rest.to_owned()),
    }
}

/// True if cargo ran here.
fn is_cargo(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("cargo ")
        || line.starts_with("Compiling ")
        || line.starts_with("error: could not compile")
}

/// An error of cargo's with the first of its causes, if it names any.
fn cargo(line: &str, below: &[&str]) -> String {
    let mut cause = below.iter().map(|line| line.trim()).skip_while(|line| !line.starts_with("Caused by:"));
    let place = below.iter().map(|line| line.trim()).take(2).find_map(|line| line.strip_prefix("--> "));
    match (place, cause.nth(1)) {
        (Some(place), _) => format!("{place}: {line}"),
        (None, Some("could not parse input as TOML")) => match cause.nth(1) {
            Some(deeper) => format!("{line}: {deeper}"),
            None => line.to_owned(),
        },
        (None, Some(cause)) => format!("{line}: {cause}"),
        (None, None) => line.to_owned(),
    }
}

/// What pkg-config, or pkgconf in its place, says of a library that is not there.
fn is_missing_module(text: &str) -> bool {
    text.starts_with("No package '") && text.ends_with("' found")
        || text.starts_with("Package '") && text.ends_with("not found")
}

/// The last line of a traceback; pytest puts an `E` before it. An error of syntax has only a place.
fn python(line: &str, before: &[&str]) -> Option<String> {
    let line = line.strip_prefix("E ").map_or(line, str::trim_start);
    if !is_python_error(line) {
        return None;
    }
    if line.starts_with("SyntaxError: ") || line.starts_with("IndentationError: ") {
        let place = before.iter().rev().find_map(|line| line.trim().strip_prefix("File \""))?;
        return Some(format!("{}: {line}", place.replace("\", line ", ":")));
    }
    before.iter().any(|line| line.contains("Traceback")).then(|| line.to_owned())
}

/// `ModuleNotFoundError: No module named 'x'`, as a traceback ends.
fn is_python_error(line: &str) -> bool {
    let Some((kind, _)) = line.split_once(": ") else { return false };
    let last = kind.rsplit('.').next().unwrap_or(kind);
    last.starts_with(|c: char| c.is_ascii_uppercase())
        && (last.ends_with("Error") || last.ends_with("Exception"))
        && kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
}

/// A test that is called by its name failed.
fn named_test(lines: &[&str]) -> Option<String> {
    let found = lines.iter().map(|line| line.trim()).find(|line| {
        line.starts_with("FAIL: ")
            || line.starts_with("FAIL ")
            || line.starts_with("FAILED ") && line.contains("::")
            || line.starts_with("not ok ")
            || line.contains("***Failed")
            || (line.starts_with("test ") && line.ends_with("... FAILED"))
            || line.starts_with("--- FAIL: ")
            || line.contains("Assertion `") && line.ends_with("failed.")
    })?;
    Some(format!("tests failed: {found}"))
}

/// A test failed.
fn test(lines: &[&str]) -> Option<String> {
    if let Some(found) = named_test(lines) {
        return Some(found);
    }
    // What a test says last, before make complains, is usually what it found.
    let complaint = lines.iter().position(|line| make(line).is_some())?;
    let testing = lines.iter().any(|line| line.starts_with("dh_auto_test: error"));
    let said = lines[..complaint].iter().rev().find(|line| !is_noise(line) && !is_step(line))?;
    testing.then(|| format!("tests failed: {}", said.trim()))
}

/// One of the packaging tools says what it misses.
fn tool(line: &str) -> Option<String> {
    let line = line.trim();
    let names = |line: &str| {
        let (tool, _) = line.split_once(": error: ").or_else(|| line.split_once(": warning: Cannot find"))?;
        let packaging = tool.starts_with("dh") || tool.starts_with("dpkg-") || tool.starts_with("debian/");
        (packaging && tool.chars().all(|c| c.is_ascii_alphanumeric() || "-_/.:".contains(c))).then_some(())
    };
    if names(line).is_some() && !is_outer(line) {
        return Some(line.to_owned());
    }
    let apt = line.starts_with("E: ") && !line.starts_with("E: Sub-process") && !is_outer(line);
    (apt || line.starts_with("dpkg: error")).then(|| line.to_owned())
}

/// What a plain command of a recipe said last, before make complained of it.
fn recipe(lines: &[&str]) -> Option<String> {
    let complaint = lines.iter().position(|line| make(line).is_some())?;
    let said = lines[..complaint].iter().rev().find(|line| !is_noise(line) && !is_step(line))?.trim();
    let named = said.split_once(": ").is_some_and(|(program, _)| !program.contains(char::is_whitespace));
    // Words of a program that does not name itself, or only the command: then where it stands.
    Some(if named { said.to_owned() } else { format!("{said} ({})", lines[complaint].trim()) })
}

/// make names its target.
fn make(line: &str) -> Option<String> {
    let line = line.trim();
    let (program, _) = line.split_once(": *** ")?;
    program.starts_with("make").then(|| line.to_owned())
}

/// Complaints that only say that something inside failed.
fn is_outer(line: &str) -> bool {
    let outer = [
        "returned exit code",
        "subprocess returned exit status",
        "debian/rules binary",
        "debian/rules build",
        // cargo and pybuild on what they started.
        "error: could not compile ",
        "error: aborting due to ",
        "error: failed to run custom build command ",
        "error: test failed, to rerun ",
        "error: build failed",
        "error: linking with ",
        "E: pybuild ",
    ];
    outer.iter().any(|text| line.contains(text)) || line.ends_with("missing files, aborting")
}

fn is_noise(line: &str) -> bool {
    let line = line.trim();
    let leaving = line.starts_with("make") && (line.contains("ing directory") || line.contains("***"));
    leaving
        || is_outer(line)
        || line.ends_with(" warning:")
        || line == "dh: error"
        || line.starts_with("dpkg-buildpackage: info")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_explains() {
        let check = |log: &str, expected: &str| assert_eq!(diagnose(log), expected, "{log}");
        check("", "it failed without saying why");
        check("\x1b[1;31mcc: x.c:1:2: error: no\x1b[0m\nmake: *** [x] Error 1", "cc: x.c:1:2: error: no");
        check(
            "error[E0425]: cannot find value `x`\n --> src/main.rs:3:5\n",
            "src/main.rs:3:5: error[E0425]: cannot find value `x`",
        );
        check(
            "cp: cannot create 'x': No space left on device",
            "the disk is full: cp: cannot create 'x': No space left on device",
        );
        let outer = "make[1]: *** [debian/rules:9: override_dh_auto_install] Error 1\n\
                     make[1]: Leaving directory '/build/x'\nmake: *** [debian/rules:3: binary] Error 2\n\
                     dpkg-buildpackage: error: debian/rules binary subprocess returned exit status 2";
        check(&format!("cp: cannot stat 'x'\n{outer}"), "cp: cannot stat 'x'");
        check(
            &format!("no luck\n{outer}"),
            "no luck (make[1]: *** [debian/rules:9: override_dh_auto_install] Error 1)",
        );
    }

    #[test]
    fn what_stands_around_the_cause_is_not_shown() {
        let check = |log: &str, expected: &str| assert_eq!(diagnose(log), expected, "{log}");
        let build_script = "error: failed to run custom build command for `x v1.0.0 (/build/x)`\n\nCaused by:\n  \
            process didn't exit successfully\n  --- stderr\n";
        check(
            &format!("{build_script}  thread 'main' panicked at 'no libfoo', build.rs:1:13\n"),
            "'no libfoo', build.rs:1:13",
        );
        check(
            &format!("{build_script}  thread 'main' panicked at build.rs:1:13:\n  no libfoo\n"),
            "build.rs:1:13: no libfoo",
        );
        check(
            "cargo build --offline\nerror: no matching package named `nosuch` found\nlocation searched: registry\n",
            "error: no matching package named `nosuch` found",
        );
        check(
            "-- Checking for module 'nosuch'\n--   No package 'nosuch' found\nCMake Error at /usr/share/x.cmake:607 \
             (message):\n  A required package was not found\n",
            "No package 'nosuch' found",
        );
        check(
            "  File \"setup.py\", line 2\n    setup(name='x'\n         ^\nSyntaxError: '(' was never closed\n\
             E: pybuild pybuild:388: clean: plugin distutils failed\n",
            "setup.py:2: SyntaxError: '(' was never closed",
        );
        check(
            "ImportError while importing test module 'x'.\nTraceback:\nE   ModuleNotFoundError: No module named 'y'\n",
            "ModuleNotFoundError: No module named 'y'",
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(diagnose(&"ü".repeat(1000)).chars().count(), 241);
    }
}
