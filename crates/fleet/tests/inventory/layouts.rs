//! The forms in which people keep inventories, small and written for these tests.

use volary_fleet::inventory::Layout;

/// A form.
pub struct Shape {
    pub name: &'static str,
    pub sources: &'static [&'static str],
    pub playbook_folder: &'static str,
    pub files: &'static [(&'static str, &'static str)],
}

impl Shape {
    pub fn layout(&self) -> Layout {
        let sources = self.sources.iter().map(|&source| source.to_owned()).collect();
        Layout { sources, playbook_folder: self.playbook_folder.to_owned() }
    }
}

/// All of them.
pub fn shapes() -> Vec<Shape> {
    vec![
        Shape {
            name: "one INI file with aliases, ranges and connection variables",
            sources: &["hosts"],
            playbook_folder: "",
            files: &[("hosts", INI)],
        },
        Shape {
            name: "one YAML file with groups by place and by stage",
            sources: &["inventory.yml"],
            playbook_folder: "",
            files: &[
                ("inventory.yml", YAML),
                ("group_vars/all.yml", "ntp: [a.example, b.example]\nport: 0022\nlevel: all-file\n"),
                ("group_vars/east.yml", "level: east-file\nzone: east\n"),
                ("host_vars/foo.example.org.yml", "level: host-file\n"),
            ],
        },
        Shape {
            name: "a folder for each environment, playbooks at the top",
            sources: &["inventories/production/hosts"],
            playbook_folder: "",
            files: &[
                (
                    "inventories/production/hosts",
                    "[app]\na1\na2\n[db]\nd1 primary=True\n[backend:children]\napp\ndb\n",
                ),
                ("inventories/production/group_vars/all/main.yml", "stage: production\nshared: inventory\n"),
                ("inventories/production/group_vars/all/users.yml", "users:\n  - {name: eve, uid: 1001}\n"),
                ("inventories/production/group_vars/backend.yaml", "shared: backend beside inventory\n"),
                ("inventories/production/host_vars/d1", "size: 1_000\n"),
                ("inventories/staging/hosts", "[app]\ns1\n"),
                ("group_vars/all.yml", "shared: playbook\nonly_play: yes\n"),
                ("group_vars/db.json", "{\"engine\": \"pg\", \"versions\": [15, 16.0]}"),
                ("site.yml", "[]\n"),
            ],
        },
        Shape {
            name: "a cluster with roles as groups of groups",
            sources: &["inventory/mycluster"],
            playbook_folder: "",
            files: &[
                ("inventory/mycluster/hosts", CLUSTER),
                (
                    "inventory/mycluster/group_vars/all/all.yml",
                    "bin_dir: /usr/local/bin\nno_proxy: ''\nloadbalancer: {port: 6443}\n",
                ),
                ("inventory/mycluster/group_vars/all/etcd.yml", "etcd_data_dir: /var/lib/etcd\n"),
                (
                    "inventory/mycluster/group_vars/k8s_cluster/net.yml",
                    "pods: 10.233.64.0/18\nipv6: off\nmtu: \"{{ base_mtu - 50 }}\"\n",
                ),
                ("inventory/mycluster/group_vars/k8s_cluster/notes.txt", "not: read\n"),
                ("inventory/mycluster/group_vars/etcd.yml", "etcd_data_dir: /srv/etcd\n"),
                ("inventory/mycluster/credentials.cfg", "nothing here\n"),
            ],
        },
        Shape {
            name: "a long chain of children declared later",
            sources: &["ansible/inventory/multinode"],
            playbook_folder: "ansible",
            files: &[("ansible/inventory/multinode", CHAIN), ("ansible/group_vars/all.yml", "kolla: true\n")],
        },
        Shape {
            name: "a folder of several sources in order",
            sources: &["inventory"],
            playbook_folder: "",
            files: &[
                (
                    "ansible.cfg",
                    "[defaults]\ninventory_ignore_extensions = ~, .orig, .bak, .retry\nhost_key_checking = no\n\
                     [inventory]\nignore_patterns = artifacts, ^cred.ntials\\.\n",
                ),
                ("inventory/artifacts", "[never]\ny\n"),
                ("inventory/credentials.yml", "never: {hosts: {z: }}\n"),
                ("inventory/10-credentials.yml", "all: {vars: {color: white}}\n"),
                (
                    "inventory/10-static.yml",
                    "all:\n  hosts:\n    n1: {color: red}\n    n2:\n  vars: {color: grey}\n",
                ),
                ("inventory/20-groups.ini", "[blue]\nn2 color=blue\n[blue:vars]\nshade=0644\n"),
                (
                    "inventory/30-parents",
                    "[sea:children]\nblue\n[blue]\n[sea:vars]\nansible_group_priority=5\ncolor=sea\n",
                ),
                ("inventory/40.json", "{\"blue\": {\"hosts\": {\"n3\": {\"ratio\": 0.5}}}}"),
                ("inventory/old.bak", "[never]\nx\n"),
                ("inventory/group_vars/blue.yml", "color: file\n"),
                ("inventory/sub/hosts", "[deep]\nn1\nn4:2200\n"),
            ],
        },
        Shape {
            name: "priorities among siblings and group names with dashes",
            sources: &["inventory.yml"],
            playbook_folder: "",
            files: &[("inventory.yml", PRIORITIES)],
        },
        Shape {
            name: "vaulted",
            sources: &["inventory"],
            playbook_folder: "",
            files: &[
                (
                    "inventory/hosts",
                    "[edge]\ngate level=1 shadowed=host_line\n[site_a]\ngate\n[edge:vars]\nlevel=2\n",
                ),
                (
                    "inventory/more.yml",
                    "world:\n  children:\n    edge:\n  vars: {level: 3}\nother:\n  hosts:\n    far:\n",
                ),
                ("inventory/group_vars/all.yml", "by_file: all\nsecret: none\nedge_secret: none\n"),
                (
                    "inventory/group_vars/edge/plain.yml",
                    "edge_file: yes\nvalue: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
                ),
                ("inventory/group_vars/edge/vault.yml", "edge_secret: from the vault of the group\n"),
                ("inventory/group_vars/made_at_run_time.yml", "by_file: dynamic wins\n"),
                ("host_vars/gate.yml", "secret: from the vault\nshadowed: \"{{ by_file }}\"\n"),
                ("host_vars/far.yml", "secret: of another\n"),
                ("site.yml", "[]\n"),
            ],
        },
    ]
}

const INI: &str = r#"# who is where
mail.example.org ntp='a b'

[webservers]
www[01:04:2].example.org
jumper ansible_port=5555 ansible_host=192.0.2.50 # not;a=comment
badwolf.example.org:5309 http_port=80 maxRequestsPerChild=808 secure=True

[dbservers]
db-[a:c].example.org   # three of them
one ansible_connection=local flags="['x', 1, None]" empty=""

[all-servers:children]
webservers
dbservers

[webservers:vars]
ntp_server = ntp.atlanta.example.org
proxy=proxy.example.org # kept
number=0x1f
port=8080

[targets]
localhost ansible_connection=local
"#;

const YAML: &str = r#"---
all:
  hosts:
    mail.example.org:
  children:
    webservers:
      hosts:
        foo.example.org: {http_port: 80, enabled: yes, mode: 0644, window: 22:30, since: 2001-12-14}
        bar.example.org:
    dbservers:
      hosts:
        "db[01:03].example.org":
          ansible_port: "2222"
    east:
      hosts:
        foo.example.org:
        db01.example.org:
      vars: &shared
        level: east
        limits: {soft: 1e3, hard: 1.0e+3}
    west:
      hosts: {bar.example.org: , db03.example.org: }
      vars:
        <<: *shared
        level: west
    prod:
      children: {east: {}}
    test:
      children:
        west:
  vars:
    level: all
    note: !unsafe "{{ not a template }}"
"#;

const CLUSTER: &str = "[all]
node1 ansible_host=95.54.0.12 ip=10.3.0.1 etcd_member_name=etcd1
node2 ansible_host=95.54.0.13 ip=10.3.0.2 etcd_member_name=etcd2
# node3 ansible_host=95.54.0.14

[kube_control_plane]
node1

[etcd]
node1
node2

[kube_node]
node2

[calico_rr]

[k8s_cluster:children]
kube_control_plane
kube_node
calico_rr
";

const CHAIN: &str = "[control]
control0[1:3]

[network]
control01

[compute]
compute[01:03]

[deployment]
localhost       ansible_connection=local

[nova:children]
control

[neutron-server:children]
neutron

[neutron:children]
network
control

[baremetal:children]
control
network
compute

[control:vars]
network_interface=eth1
tunnel={{ network_interface }}.100

[all:vars]
network_interface=eth0
";

const PRIORITIES: &str = "
low:
  vars: {who: low, ansible_group_priority: 10}
  hosts: {h: }
zz-high:
  vars: {who: high}
  hosts: {h: }
parent:
  children: {low: , zz-high: , deep: }
  vars: {who: parent, ansible_group_priority: 100}
deep:
  children: {deeper: }
deeper:
  vars: {where: deeper}
  hosts: {h: {own: 1}, other: }
";
