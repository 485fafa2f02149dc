"""Commands and their decisions. Paths are the shell tool's matter (`inside_workspace`,
`protected`): these requests say that no word leads out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qcode.agent.permissions import PermissionPolicy
from qcode.protocol.errors import SettingsError
from qcode.protocol.permissions import Access, Mode, PermissionRequest
from qcode.tools.shell_syntax import analyse

ROOT = Path("/work/project")


def shell(command: str, *, inside: bool = True, protected: bool = False) -> PermissionRequest:
    return PermissionRequest(
        tool="run_shell_command",
        access=Access.EXECUTE,
        target=command,
        inside_workspace=inside,
        title=command,
        shell=analyse(command),
        protected=protected,
    )


def file(
    tool: str, access: Access, target: str, *, inside: bool = True, protected: bool = False
) -> PermissionRequest:
    return PermissionRequest(
        tool=tool,
        access=access,
        target=target,
        inside_workspace=inside,
        title=target,
        protected=protected,
    )


def read(target: str, **kwargs: bool) -> PermissionRequest:
    return file("read_file", Access.READ, target, **kwargs)


def edit(target: str, **kwargs: bool) -> PermissionRequest:
    return file("edit", Access.EDIT, target, **kwargs)


def policy(mode: Mode = Mode.DEFAULT, **rules: list[str]) -> PermissionPolicy:
    return PermissionPolicy(mode=mode, workspace_root=ROOT, **rules)


SAFE = """
ls
ls -la src
ls -lh --color=never
cat a.py
cat -n a.py b.py
cat *.py
head -20 a.py
head -n 20 a.py
tail -n +5 a.py
wc -l < a.py
grep -rn "def main" src
grep -rn --include=*.py pattern .
grep -E 'a|b' file
grep "end$" file
rg -n pattern src
rg -t py 'class \\w+' --max-count 5
find . -name '*.py' -type f
find src -maxdepth 2 -not -path '*/x/*'
sort -u -k2 names
sort names | uniq -c | sort -rn | head -5
sed -n 10,20p a.py
sed -n '5p' a.py
diff -u a b
cut -d, -f2 a.csv
tr a-z A-Z < a
echo hello
echo "a b" && pwd
printf '%s' x
cd src && ls
cd src; cat a.py
test -f a.py && echo yes
test 3 -gt 2
which python
stat -c %s a
du -sh src
date +%F
uname -a
sha256sum a
git status
git status --short
git diff
git diff --cached --stat
git diff HEAD~2 -- src
git log --oneline -5
git log -n 3 -p src/a.py
git show HEAD:a.py
git blame -L 1,5 a.py
git branch
git branch -a
git branch --show-current
git branch --list 'feature/*'
git remote -v
git ls-files
git rev-parse --show-toplevel
ls > /dev/null 2>&1
cat a.py 2>/dev/null | wc -l
LC_ALL=C sort a
ls;
""".strip().splitlines()

ASKED = [
    *"""
rm a
mv a b
cp a b
touch a
mkdir a
chmod +x a
python x.py
python -c 'print(1)'
pytest
make
npm test
pip install x
curl http://x
wget x
ssh host ls
sudo ls
env
env ls
printenv
xargs rm
less a
man ls
awk '{print}' a
tee a
tar xf a
jq . a
nc -l 1
tree -o x
ls | xargs rm
timeout 5 ls
nohup ls
time ls
command ls
bash -c ls
sh x.sh
eval ls
source a
. a
trap ls EXIT
alias a=b
exec ls
./ls
/bin/ls
/usr/bin/git status
LS
\u0441at a
cat a > b
cat a >> b
cat a >| b
cat a &> b
cat a <> b
> a
echo x > /dev/tcp/1.2.3.4/80
ls >&-
cat $FILE
cat "$FILE"
cat ${FILE}
cat $(ls)
cat `ls`
cat <(ls)
echo $((1+1))
echo $[1+1]
echo $"translated"
cat <<< x
A=1 ls
PATH=/evil ls
LC_ALL=$(x) ls
A=1
export A=1
! ls
ls &
(ls)
{ ls; }
if true; then ls; fi
for f in a; do cat a; done
while true; do ls; done
case a in a) ls;; esac
f() { ls; }; f
[[ -v a ]]
[ -f a ]
ls;; ls
ls |& cat
ls # a comment
coproc ls
~/bin/ls
l? a
tail -f log
tail -F log
head --lin 5 a
file -C a
wc --files0-from=a
du --files0-from=a
date -s now
date 010101
printf -v x y
cd
cd -
cd -P src
grep -f patterns a
grep -R x .
rg --pre ./x pattern
rg --hostname-bin ./x pattern
rg -z x
rg --search-zip x
rg --hidden x
rg -L x
find . -exec rm {} +
find . -execdir ls {} +
find . -ok rm {} +
find . -delete
find . -fprint a
find . -fls a
find . -files0-from a
find -L . -name x
sort -o out a
sort --output=out a
sort --compress-program=./x a
sort -T /tmp a
sort *.txt
uniq a b
uniq -- a b
sed -i s/a/b/ f
sed s/a/b/w f
sed -n 1e f
sed -n '1p;w x' f
sed -n 1p -i f
test -v 'a[$(x)]'
test -R x
test 'a[$(x)]' -eq 1
git commit -m x
git push
git pull
git fetch
git checkout x
git add .
git stash
git -c alias.x=!ls x
git -C /x status
git --git-dir=/x status
git --exec-path=/x status
git -p log
git diff --ext-diff
git diff --textconv
git diff --output=x
git diff --no-index a b
git diff --outp=x
git log --show-signature
git log --format=%GK
git grep -O x
git branch new
git branch -D old
git branch -m a b
git remote add x y
git remote show origin
git config --list
git difftool
git show --textconv
git bisect run ls
git submodule foreach ls
git status *
""".strip().splitlines(),
    "ls \\\n-la",
    '"$\\\n(ls)"',
    "ls # comment \\\nrm x",
    "ls\r\nrm x",
    "cat a\x1b[0m",
    "cat \u202ea",
    "cat\u00a0a",
    "ls \x00",
    "ls (",
    "cat 'open",
    "cat <<EOF\na\nEOF",
    "ls " + "a" * 17_000,
    "ls; " * 201,
]


def test_the_tables_are_long_and_hold_no_line_twice() -> None:
    assert len(set(SAFE)) == len(SAFE)
    assert len(set(ASKED)) == len(ASKED)
    assert len(SAFE) + len(ASKED) >= 150


@pytest.mark.parametrize("command", SAFE)
def test_runs_unasked(command: str) -> None:
    assert policy().decide(shell(command)).decision == "allow"
    assert policy(Mode.PLAN).decide(shell(command)).decision == "allow"


@pytest.mark.parametrize("command", ASKED)
def test_asks(command: str) -> None:
    verdict = policy().decide(shell(command))
    assert (verdict.decision, verdict.reason != "") == ("ask", True)
    assert policy(Mode.AUTO_EDIT).decide(shell(command)).decision == "ask"
    assert policy(Mode.PLAN).decide(shell(command)).decision == "deny"


@pytest.mark.parametrize("command", ["ls", "cat a", "git status"])
def test_a_safe_command_asks_where_its_words_lead_out_or_to_secrets(command: str) -> None:
    assert policy().decide(shell(command, inside=False)).decision == "ask"
    assert policy().decide(shell(command, protected=True)).decision == "ask"


FLOOR = """
rm -rf /
rm -rf /*
rm -fr ~
rm -rf ~/
rm -r -f $HOME
rm -rf "$HOME"/
rm -rf .
rm -rf *
rm -rf ./*
rm -rf ..
rm -rf .git
rm -rf sub/.git
rm -rf .GIT
rm --recursive --force /
/bin/rm -rf /
sudo rm -rf /
sudo -u root rm -rf /
timeout 5 rm -rf /
env -i A=1 rm -rf /
bash -c 'rm -rf /'
bash -lc "cd x && rm -rf /"
sh -c "sh -c 'rm -rf ~'"
eval 'rm -rf /'
echo $(rm -rf /)
if true; then rm -rf /; fi
ls && rm > /dev/null -rf /
find . -exec rm -rf / ;
rm -rf /work/project
rm -rf /work
cat x > /dev/nvme0n1
mkfs.ext4 /dev/sda1
mkfs /dev/sda1
:(){ :|:& };:
bomb() { bomb | bomb & }; bomb
echo x > .git/hooks/pre-commit
echo x >> AGENTS.md
""".strip().splitlines()


@pytest.mark.parametrize("command", [*FLOOR, "rm -rf \\\n/", "ls\nb()\n{\n b|b&\n}\nb"])
def test_the_floor_asks_in_every_mode_and_past_every_rule(command: str) -> None:
    assert policy(Mode.YOLO).decide(shell(command)).decision == "ask"
    assert policy(Mode.YOLO, allow=["Bash"]).decide(shell(command)).decision == "ask"


@pytest.mark.parametrize("command", ["rm -rf build", "rm a", "git push --force", "curl x | sh"])
def test_yolo_allows_the_rest(command: str) -> None:
    assert policy(Mode.YOLO).decide(shell(command)).decision == "allow"


DENIED = """
rm x
/bin/rm x
\\rm x
'rm' x
r""m x
$'rm' x
ls; rm x
ls | xargs rm
sudo rm x
env -u A rm x
timeout -k 5 5 rm x
nice -n 5 rm x
find . -exec rm {} ;
bash -c 'rm x'
bash -c "bash -c 'rm x'"
sudo bash -xc 'ls; rm x'
echo `rm x`
echo "$(rm x)"
cat <(rm x)
f() { rm x; }; f
for i in 1; do rm x; done
A=1 rm x
(rm x)
{ rm x; }
! rm x
rm x &
if rm x; then ls; fi
ssh host 'rm x'
watch 'rm x'
eval "rm x"
env -S 'rm x'
busybox rm x
coproc rm x
bash <<< "rm x"
""".strip().splitlines()


@pytest.mark.parametrize(
    "command",
    [*DENIED, "ls \\\nrm x", "rm (", "ls\rrm x", "a " * 9000 + "; rm x", "x;" * 300 + "rm"],
)
@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.YOLO])
def test_a_deny_rule_sees_through_everything(command: str, mode: Mode) -> None:
    denying = policy(mode, deny=["Bash(rm:*)"], allow=["Bash"])
    verdict = denying.decide(shell(command))
    assert (verdict.decision, verdict.reason) == ("deny", "deny rule Bash(rm:*)")


@pytest.mark.parametrize(
    "command",
    [
        "ls " + "a" * 100_000,
        "a(){" * 30_000,
        "{" * 16_000,
        "ls " + "{" * 16_000,
        "sudo " * 20_000,
        "find . " + "-exec " * 2_600,
        "a|" * 50_000,
        "$(" * 50_000,
        "x" + "[" * 16_000,
        "'" * 16_001,
        "bash -c '" * 1_000,
    ],
)
def test_a_hostile_line_is_decided_in_time(command: str) -> None:
    hostile = policy(Mode.YOLO, deny=["Bash(rm:*)", "Bash(git push:*)"])
    started = time.process_time()
    hostile.decide(shell(command))
    assert time.process_time() - started < 3


ALLOW = ["Bash(pytest:*)", "Bash(git diff:*)", "Bash(npm test)", "Bash(timeout:*)", "Bash(find:*)"]


@pytest.mark.parametrize(
    ("command", "decision"),
    [
        ("pytest", "allow"),
        ("pytest -x tests", "allow"),
        ("pytest tests/*.py", "allow"),
        ("pytest -q 2>&1 | tail -20", "allow"),
        ("cd src && pytest", "allow"),
        ("timeout 60 pytest -x", "allow"),
        ("npm test", "allow"),
        ("git diff --output=x", "allow"),
        ("pytest2", "ask"),
        ("pytest > out.txt", "ask"),
        ("pytest $(cat args)", "ask"),
        ("pytest; rm x", "ask"),
        ("pytest && python x.py", "ask"),
        ("A=1 pytest", "ask"),
        ("pytest &", "ask"),
        ("./pytest", "ask"),
        ("nohup pytest", "ask"),
        ("timeout 60 rm x", "ask"),
        ("timeout --foreground 60 pytest", "ask"),
        ("bash -c pytest", "ask"),
        ("npm test --x", "ask"),
        ("npm tes*", "ask"),
        ("git difftool", "ask"),
        ("git d* x", "ask"),
        ("find . -exec rm {} ;", "ask"),
        ("find . -delete", "allow"),
        ("> x", "ask"),
    ],
)
def test_allow_rules_cover_whole_lines_only(command: str, decision: str) -> None:
    assert policy(allow=ALLOW).decide(shell(command)).decision == decision


def test_an_exact_rule_covers_a_wrapper_and_words_that_expand() -> None:
    allowing = policy(allow=["Bash(timeout 5 ./run.sh)", "Bash(ruff check *.py)"])
    assert allowing.decide(shell("timeout 5 ./run.sh")).decision == "allow"
    assert allowing.decide(shell("ruff check *.py")).decision == "allow"


@pytest.mark.parametrize(
    ("mode", "request_", "decision"),
    [
        (Mode.DEFAULT, read("/work/project/a"), "allow"),
        (Mode.DEFAULT, read("/etc/hosts", inside=False), "ask"),
        (Mode.DEFAULT, read("/work/project/.env", protected=True), "ask"),
        (Mode.DEFAULT, edit("/work/project/a"), "ask"),
        (Mode.PLAN, read("/work/project/a"), "allow"),
        (Mode.PLAN, read("/etc/hosts", inside=False), "ask"),
        (Mode.PLAN, edit("/work/project/a"), "deny"),
        (Mode.AUTO_EDIT, edit("/work/project/a"), "allow"),
        (Mode.AUTO_EDIT, edit("/elsewhere/a", inside=False), "ask"),
        (Mode.AUTO_EDIT, edit("/work/project/.git/config", protected=True), "ask"),
        (Mode.YOLO, edit("/work/project/a"), "allow"),
        (Mode.YOLO, edit("/work/project/.git/config", protected=True), "ask"),
        (Mode.YOLO, read("/work/project/.env", protected=True), "allow"),
        (Mode.DEFAULT, file("web_fetch", Access.NETWORK, "https://x.org/"), "ask"),
        (Mode.DEFAULT, file("mcp__a__b", Access.EXECUTE, "b"), "ask"),
    ],
)
def test_modes(mode: Mode, request_: PermissionRequest, decision: str) -> None:
    assert policy(mode).decide(request_).decision == decision


def test_rules_for_files() -> None:
    rules = policy(
        allow=["Edit(src/**)", "Read(//etc/hosts)"], ask=["Edit(src/db/**)"], deny=["Edit(*.lock)"]
    )
    decisions = {
        target: rules.decide(edit(f"/work/project/{target}")).decision
        for target in ("src/a.py", "src/db/a.sql", "src/x.lock", "b.py", "other/src/a.py")
    }
    assert decisions == {
        "src/a.py": "allow",
        "src/db/a.sql": "ask",
        "src/x.lock": "deny",
        "b.py": "ask",
        "other/src/a.py": "ask",
    }
    assert rules.decide(read("/etc/hosts", inside=False)).decision == "allow"
    assert rules.decide(read("/etc/hosts.allow", inside=False)).decision == "ask"
    assert rules.decide(shell("echo a > src/x.lock")).decision == "deny"
    yolo = rules.with_mode(Mode.YOLO)
    assert yolo.decide(edit("/work/project/src/x.lock")).decision == "deny"
    assert yolo.decide(shell("echo a > src/x.lock")).decision == "deny"


def test_a_rule_for_all_files_is_none_for_secrets_or_files_elsewhere() -> None:
    rules = policy(allow=["Read", "Edit"])
    assert rules.decide(edit("/work/project/a")).decision == "allow"
    assert rules.decide(edit("/elsewhere/a", inside=False)).decision == "ask"
    assert rules.decide(read("/work/project/.env", protected=True)).decision == "ask"
    named = policy(allow=["Read(.env)"])
    assert named.decide(read("/work/project/.env", protected=True)).decision == "allow"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://docs.example.org/a", True),
        ("https://DOCS.example.org:443/", True),
        ("https://evil.org/docs.example.org", False),
        ("https://docs.example.org@evil.org/", False),
        ("https://docs.example.org.evil.org/", False),
        ("https://evildocs.example.org/", False),
    ],
)
def test_hosts_are_compared_as_parsed(url: str, allowed: bool) -> None:
    rules = policy(allow=["WebFetch(domain:docs.example.org)"])
    decision = rules.decide(file("web_fetch", Access.NETWORK, url)).decision
    assert decision == ("allow" if allowed else "ask")


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (shell("pytest -x"), "Bash(pytest:*)"),
        (shell("cd a && pytest -x | tail -3"), "Bash(pytest:*)"),
        (shell("git commit -m 'x y'"), "Bash(git commit:*)"),
        (shell("python -m pytest -x"), "Bash(python -m pytest:*)"),
        (shell("/v/bin/python -m unittest -q"), "Bash(/v/bin/python -m unittest:*)"),
        (shell("python x.py 'a b'"), "Bash(python x.py 'a b')"),
        (shell("rm x"), "Bash(rm x)"),
        (shell("git -c a=b commit"), "Bash(git -c a=b commit)"),
        (shell("sudo rm x"), None),
        (shell("rm x; mv a b"), None),
        (shell("pytest > x"), None),
        (shell("rm $X"), None),
        (shell("rm *.o"), None),
        (edit("/work/project/src/a.py"), "Edit(//work/project/src/**)"),
        (edit("/work/project/.git/config", protected=True), None),
        (read("/etc/hosts", inside=False), "Read(//etc/**)"),
        (file("glob", Access.READ, "/opt/x", inside=False), "Read(//opt/x)"),
        (file("web_fetch", Access.NETWORK, "https://x.org/"), None),
    ],
)
def test_the_suggested_rule_allows_what_was_asked(
    request_: PermissionRequest, rule: str | None
) -> None:
    asking = policy()
    assert asking.suggested_rule(request_) == rule
    if rule is not None:
        assert asking.with_session_rule(rule).decide(request_).decision == "allow"
        assert asking.decide(request_).decision == "ask"


def test_a_malformed_rule_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"'Bash\('"):
        policy(deny=["Bash("])
