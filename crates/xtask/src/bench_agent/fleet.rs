//! The fleet that is measured on: the template with a thousand hosts, each with variables of its
//! own, and a playbook of the size that people have: the roles of the template, five templates,
//! and three services with four tasks each.

use std::fmt::Write as _;
use std::time::Duration;

use volary_testkit::chain::{Clone, inventory};

/// The device that is real.
pub const DEVICE: &str = "dev-000042";

/// The template that changes.
pub const CHANGING: &str = "journald.conf";

/// Where the playbook writes.
pub const PLACE: &str = "/etc/bench";

const TEMPLATES: [&str; 5] = ["timesyncd.conf", CHANGING, "gateway.conf", "edge.toml", "network.conf"];

/// Writes the files of a fleet of `hosts` hosts into a clone.
pub fn write(clone: &Clone, hosts: usize) -> anyhow::Result<()> {
    let names: Vec<String> = (0..hosts).map(|number| format!("dev-{number:06}")).collect();
    let stage = |number: usize| match number % 20 {
        _ if names[number] == DEVICE => "development",
        0 => "development",
        1 => "canary",
        _ => "production",
    };
    let staged: Vec<_> =
        names.iter().enumerate().map(|(number, name)| (name.as_str(), stage(number))).collect();
    clone.write("inventory.yml", &inventory(&staged))?;
    for (number, name) in names.iter().enumerate() {
        let site = number % 97;
        let text = format!(
            "---\nserial: \"SN{number:010}\"\nsite: site-{site:03}\nkiosk_url: https://kiosk.test/{site}\n\
             feature_flags:\n  monitoring: true\n  kiosk: {}\n",
            number % 3 == 0
        );
        clone.write(&format!("host_vars/{name}.yml"), &text)?;
    }
    for template in TEMPLATES {
        clone.write(&format!("templates/{template}.j2"), &template_text(template, 0))?;
    }
    clone
        .write("templates/service.conf.j2", "name={{ item_name }}\nsite={{ site }}\nurl={{ kiosk_url }}\n")?;
    for service in SERVICES {
        let unit = format!("[Unit]\nDescription={service}\n[Service]\nExecStart=/usr/bin/{service}\n");
        clone.write(&format!("files/{service}.service"), &unit)?;
    }
    Ok(clone.write("site.yml", &playbook())?)
}

/// How often devices ask, from this commit on.
pub fn write_poll(clone: &Clone, poll: Duration) -> anyhow::Result<()> {
    let text = volary_host::read_to_string(&clone.dir().join("volary.yml"))?;
    let lines = text.lines().map(|line| match line.starts_with("poll:") {
        true => format!("poll: {}s\n", poll.as_secs()),
        false => format!("{line}\n"),
    });
    Ok(clone.write("volary.yml", &lines.collect::<String>())?)
}

/// Changes the one template.
pub fn write_change(clone: &Clone, turn: usize) -> anyhow::Result<()> {
    Ok(clone.write(&format!("templates/{CHANGING}.j2"), &template_text(CHANGING, turn))?)
}

fn template_text(name: &str, turn: usize) -> String {
    let mut text =
        format!("# {name} of {{{{ inventory_hostname }}}} in {{{{ volary_stage }}}}, turn {turn}\n");
    for number in 0..20 {
        writeln!(text, "option_{number}={{{{ site }}}}-{number}").expect("a String takes any write");
    }
    text + "{% for number in range(3) %}\nserver ntp{{ number }}.test\n{% endfor %}\nserial={{ serial }}\n"
}

const SERVICES: [&str; 3] = ["kiosk", "gateway", "telemetry"];

fn playbook() -> String {
    let mut text = String::from(
        "---\n- name: Bring the device to what its stage wants\n  hosts: all\n  become: true\n  roles:\n    \
         - role: volary.fleet.apt_source\n    - role: volary.fleet.packages\n    \
         - role: volary.fleet.service_health\n  tasks:\n",
    );
    let mut task = |name: &str, module: &str, arguments: &str| {
        write!(text, "    - name: {name}\n      ansible.builtin.{module}: {{{arguments}}}\n")
            .expect("a String takes any write");
    };
    for template in TEMPLATES {
        let arguments = format!("src: {template}.j2, dest: {PLACE}/{template}, mode: \"0644\"");
        task(&format!("Write {template}"), "template", &arguments);
    }
    for service in SERVICES {
        let folder = format!("{PLACE}/{service}");
        task(
            &format!("Make the folder of {service}"),
            "file",
            &format!("path: {folder}, state: directory, mode: \"0755\""),
        );
        task(
            &format!("Copy the unit of {service}"),
            "copy",
            &format!("src: {service}.service, dest: {folder}/{service}.service, mode: \"0644\""),
        );
        task(
            &format!("Switch {service} on"),
            "lineinfile",
            &format!(
                "path: {PLACE}/defaults, regexp: \"^{service}=\", line: \"{service}=on\", create: true, \
                 mode: \"0644\""
            ),
        );
        let arguments = format!(
            "src: service.conf.j2, dest: {folder}/{service}.conf, mode: \"0644\"}}\n      \
             vars: {{item_name: {service}"
        );
        task(&format!("Write the configuration of {service}"), "template", &arguments);
    }
    // The folder of the first five is made by the third kind of task otherwise.
    text.replacen(
        "  tasks:\n",
        &format!(
            "  tasks:\n    - name: Make the folder\n      ansible.builtin.file: {{path: {PLACE}, state: directory, \
             mode: \"0755\"}}\n"
        ),
        1,
    )
}
