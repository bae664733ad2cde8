//! Real sources in Rust, CMake and Python that do not build, each in the way that developers meet
//! most: the one line that they are shown is the true cause.

use crate::common::{Attempt, builder, package};
use crate::source::Source;

/// Builds a package with these files, and wants this in the reason.
fn check(depends: &str, rules: &str, files: &[(&str, &str)], expected: &[&str]) {
    let source: Source = package("broken", &format!("debhelper-compat (= 13), {depends}"), "true");
    std::fs::remove_file(source.path().join("Makefile")).unwrap();
    source.write("debian/rules", &format!("#!/usr/bin/make -f\n{rules}"));
    for (name, text) in files {
        source.write(name, text);
    }
    let attempt = Attempt::of(&builder(), &source, |_| {});
    let reason = attempt.reason();
    let right = expected.iter().all(|part| reason.contains(part)) && !reason.contains('\n');
    assert!(right, "{reason}\nand not {expected:?}\n{}", attempt.log());
}

const CMAKE: &str = "%:\n\tdh $@ --buildsystem=cmake\n";

fn cmake(lists: &str, main: &str, expected: &[&str]) {
    let lists = format!("cmake_minimum_required(VERSION 3.10)\nproject(broken C)\n{lists}");
    check("cmake, pkg-config", CMAKE, &[("CMakeLists.txt", &lists), ("main.c", main)], expected);
}

#[test]
fn cmake_and_c() {
    let main = "int main(void) { return 0; }\n";
    let program = "add_executable(x main.c)\n";
    cmake("find_package(Nosuch REQUIRED)\n", main, &["CMakeLists.txt:3 (find_package)", "Nosuch"]);
    let modules = "find_package(PkgConfig)\npkg_check_modules(X REQUIRED nosuch)\n";
    cmake(modules, main, &["Package 'nosuch'", "not found"]);
    cmake(program, "int main(void) { return missing; }\n", &["main.c:1:25: error: ", "undeclared"]);
    cmake(program, "#include <nosuch.h>\n", &["fatal error: nosuch.h: No such file"]);
    let missing = "int f(void); int main(void) { return f(); }\n";
    cmake(program, missing, &["undefined reference to `f'"]);
    cmake(&format!("{program}target_link_libraries(x nosuch)\n"), main, &["cannot find -lnosuch"]);
    let test = format!("enable_testing()\n{program}add_test(NAME answers COMMAND x)\n");
    cmake(&test, "int main(void) { return 3; }\n", &["tests failed: ", "answers", "***Failed"]);
}

const PYTHON: &str = "%:\n\tdh $@ --with python3 --buildsystem=pybuild\n";
const SETUP: &str =
    "from setuptools import setup\nsetup(name='broken', version='1', py_modules=['broken'])\n";

fn python(setup: &str, module: &str, test: &str, expected: &[&str]) {
    let mut files = vec![("setup.py", setup), ("broken.py", module)];
    if !test.is_empty() {
        files.push(("tests/test_broken.py", test));
        files.push(("tests/__init__.py", ""));
    }
    check("dh-python, python3-all, python3-setuptools, python3-pytest", PYTHON, &files, expected);
}

#[test]
fn python_and_its_tests() {
    let module = "def answer():\n    return 42\n";
    python("from setuptools import setup\nsetup(name='x'\n", module, "", &["setup.py", "SyntaxError: "]);
    python(
        &format!("import nosuch\n{SETUP}"),
        module,
        "",
        &["ModuleNotFoundError: No module named 'nosuch'"],
    );
    let plain = "import broken\ndef test_answer():\n    assert broken.answer() == 43\n";
    python(SETUP, module, plain, &["tests failed: ", "test_answer", "assert 42 == 43"]);
    python(SETUP, module, "import nosuch\n", &["No module named 'nosuch'"]);
    let raising = "import broken\ndef test_answer():\n    {}['key']\n";
    python(SETUP, module, raising, &["tests failed: ", "test_answer", "KeyError"]);
}

const RUST: &str = "export CARGO_HOME=$(CURDIR)/cargo-home\n%:\n\tdh $@\noverride_dh_auto_build:\n\t\
                    cargo build --offline\noverride_dh_auto_test:\n\tcargo test --offline\n";

fn rust(toml: &str, main: &str, more: &[(&str, &str)], expected: &[&str]) {
    let toml = format!("[package]\nname = \"broken\"\nversion = \"1.0.0\"\nedition = \"2021\"\n{toml}");
    let files = [&[("Cargo.toml", toml.as_str()), ("src/main.rs", main)], more].concat();
    check("cargo", RUST, &files, expected);
}

#[test]
fn rust_and_cargo() {
    let main = "fn main() {}\n";
    rust(
        "",
        "fn main() { let x: u8 = \"no\"; }\n",
        &[],
        &["src/main.rs:1:25: error[E0308]: mismatched types"],
    );
    rust("", "fn main() { let x = ; }\n", &[], &["src/main.rs:1:21: error: expected expression"]);
    rust("[dependencies]\nnosuch = \"1\"\n", main, &[], &["no matching package named `nosuch` found"]);
    rust("nokey\n", main, &[], &["Cargo.toml", "line 5"]);
    let build = [("build.rs", "fn main() { panic!(\"libnosuch is missing\"); }\n")];
    rust("", main, &build, &["libnosuch is missing", "build.rs:1:13"]);
    let test = "fn main() {}\n#[test]\nfn adds() { assert_eq!(1 + 1, 3, \"sums\"); }\n";
    rust("", test, &[], &["tests failed: test adds ... FAILED"]);
}
