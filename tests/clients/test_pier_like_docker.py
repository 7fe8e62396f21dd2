"""``pier`` prints what the docker client prints, byte for byte, for the same daemon: standard output, errors, status.

Only the program's own name differs. Each line is run by both against the same containers; times that move between
the two runs ("3 seconds ago") are compared as words.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import client_present, client_version
from tests.harness.engines import Engine
from tests.harness.processes import Output
from tests.harness.terminal import Terminal

PASSING = re.compile(
    r"(Up )?(Less than a second|About an? \w+|\d+ seconds?|\d+ minutes?)( ago)?|^status: .*|pier-import-\d+", re.M
)
BLANKS = re.compile(r" {2,}")


@pytest.fixture(scope="module")
def stage(shared_engine: Engine) -> Iterator[Engine]:
    """A daemon with something to show: containers that run, ended, never started; a network; a volume."""
    if not client_present() or client_version() < (28,):
        pytest.skip("needs the docker client 28 to compare with")
    for line in (
        "network create --subnet 10.91.0.0/16 --label l=m shown",
        "volume create --label a=b shown",
        "run -d --name runs -l x=1 -l com.x.y-z=2 -e E=f -v shown:/v --network shown --expose 70 -p 8082:80 "
        "-p 9000-9002:9000-9002/udp -p 8100-8101:8200-8201 busybox sleep 1000",
        "run --name ended busybox sh -c 'echo out; echo err >&2; exit 3'",
        "create --name never -it busybox",
        "tag busybox shown/image:v1",
    ):
        done = shared_engine.docker(*shlex.split(line))
        assert done.status in (0, 3), done.stderr
    yield shared_engine
    shared_engine.forget()
    shared_engine.docker("rmi", "shown/image:v1").check()


def comparable(said: Output) -> tuple[int, str, str]:
    def plain(text: str) -> str:
        text = PASSING.sub("<time>", text.replace("docker", "pier"))
        # Docker's client says "SRun" where it means "Run".
        return BLANKS.sub("  ", text.replace("SRun", "Run")) if "<time>" in text else text.replace("SRun", "Run")

    return said.status, plain(said.stdout), plain(said.stderr)


LISTS = r"""
ps
ps -a
ps -aq
ps -as
ps -a --no-trunc
ps -a --format '{{json .}}'
ps -a --format json
ps -a --format 'table {{.Names}}\t{{.Ports}}'
ps -a --format '{{.Names}}: {{.Label "x"}} {{.Labels}} {{.Networks}} {{.Mounts}} {{.LocalVolumes}}'
ps --format 'table {{.Names}}: {{.Label "com.x.y-z"}} {{upper .Image}} {{truncate .ID 3}}'
ps --format raw
ps --format pretty
ps -a --filter name=runs --filter status=running
ps -a --filter label=x=1 -q
ps -a -n 1
ps -l
images
images -q
images --no-trunc
images --digests
images --format json
images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}'
images busybox
images nosuch
image ls -a --format 'table {{.Repository}}\t{{.Tag}}'
history busybox
history --no-trunc busybox
history -q busybox
history --format json busybox
network ls
network ls -q
network ls --no-trunc
network ls --format json
network ls --filter driver=bridge
network ls --format '{{.Name}} {{.Internal}} {{.IPv6}} {{.Labels}}'
volume ls
volume ls -q
volume ls --format json
port runs
port runs 80
port runs 9001/udp
top runs -o pid,comm
diff ended
logs ended
logs --tail 0 ended
container ls
system df --format json
system df --format 'table {{.Type}}\t{{.Size}}'
info --format '{{.ID}} {{.NCPU}} {{json .Plugins.Network}}'
version --format '{{.Server.Version}}'
"""

INSPECTIONS = r"""
inspect runs
inspect ended never
inspect shown
inspect busybox
inspect --type network shown
inspect --type volume shown
inspect --format json runs
inspect -f '{{.State.Status}} {{.Config.Image}} {{.Id}}' runs
inspect -f '{{.ID}}' never
inspect -f '{{.HostConfig.Binds}} {{.HostConfig.CapAdd}} {{json .HostConfig.CapAdd}}' never
inspect -f '{{.Config.Entrypoint}} {{.Config.Labels}} {{json .Config.Entrypoint}}' never
inspect -f '{{.NetworkSettings.Ports}}' runs
inspect -f '{{json .NetworkSettings.Ports}}' runs
inspect -f '{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{if $c}}{{(index $c 0).HostPort}}{{end}} {{end}}' runs
inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}' runs
inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' runs
inspect -f '{{.Config.Env}} {{.Config.Cmd}} {{.Config.Labels}} {{len .Config.Cmd}}' runs
inspect -f '{{printf "%s-%d" .Name .RestartCount}} {{.State.Running}} {{.HostConfig.Memory | printf "%v"}}' runs
inspect -f '{{if .State.Running}}yes{{else}}no{{end}} {{with .Config}}{{.Hostname}}{{end}}' runs ended
inspect -f '{{println .Name}}{{.Name}}' runs
inspect -f '{{join .Config.Cmd "+"}} {{split .Name "u"}} {{title .State.Status}} {{eq .State.ExitCode 0}}' runs
inspect -f '{{range $i, $e := .Config.Cmd}}{{if $i}},{{end}}{{$e}}{{end}}' runs
inspect -f '{{- .Name -}} x {{/* nothing */}}' runs
network inspect bridge shown
network inspect -f '{{.Name}} {{range .IPAM.Config}}{{.Subnet}}{{end}} {{.Labels}}' shown bridge
network inspect -f '{{json .IPAM}}' bridge
image inspect busybox
image inspect -f '{{.Id}} {{.RepoTags}} {{.RootFS.Layers}}' busybox
volume inspect shown
container inspect -f '{{.Name}}' runs
"""

MISTAKES = r"""
ps x
ps --foo
ps -x
ps -n x
ps --all=foo
ps --filter x
ps --filter foo=bar
ps --format '{{.Foo}}'
ps --format '{{.Names'
ps --format '{{range .Names}}'
ps --format '{{foo .Names}}'
images a b
inspect nosuch
inspect runs nosuch
inspect -f '{{.Name}}' nosuch
inspect -f '{{.HostConfig.Foo}}' runs
inspect -f '{{' runs
inspect --type image runs
inspect --type foo runs
container inspect nosuch
image inspect nosuch
network inspect nosuch
network rm nosuch
network rm bridge
network foo
network
volume inspect nosuch
volume rm nosuch
volume rm shown
volume create a b
logs nosuch
logs
logs -n
exec nosuch true
exec runs nosuch
exec never true
exec runs sh -c 'echo out; echo err >&2; exit 7'
exec -e A=b -w /bin runs sh -c 'echo $A; pwd'
exec -it runs sh
exec
exec runs
port runs 81
port nosuch
top nosuch
top ended
history nosuch
stop nosuch
start nosuch
kill nosuch
kill ended
pause nosuch
unpause runs
restart nosuch
rm nosuch
rm -f nosuch
rm runs
rename nosuch x
rename runs ended
rename a
wait nosuch
rmi nosuch
rmi -f nosuch
tag nosuch x
tag busybox
tag busybox UP/per
save
save nosuch -o /dev/null
load -i /nonexist
import
import /nonexist
pull
pull -q UPPER
run
run --foo
run --pull never nosuch:img
run --rm busybox echo hi
run --rm busybox nosuch
run --rm busybox /
run --rm busybox sh -c 'exit 3'
run --rm -w rel busybox true
run --rm -p 99999:80 busybox true
run --rm -p a:b busybox true
run --rm -p 80-81:80-82 busybox true
run --rm -p x.y:80:80 busybox true
run --rm -p 80:80/foo busybox true
run --rm --network nosuch busybox true
run --rm --network= busybox true
run --rm --network container:runs -p 80:80 busybox true
run --rm --network container:runs --network-alias a busybox true
run --rm --network container:runs --hostname h busybox true
run --rm --network container:nosuch busybox true
run --rm --network host --network-alias a busybox true
run --rm --net host -p 8090:80 busybox true
run --rm --mount type=bind,src=/nosuch,dst=/x busybox true
run --rm --mount type=bind busybox true
run --rm --mount type=bind,foo=x busybox true
run --rm --mount x busybox true
run --rm -e = busybox true
run --rm -e A=1 -e HOME busybox sh -c 'echo $A $HOME'
run --rm --env-file /nonexist busybox true
run --rm --restart always busybox true
run --rm --restart x:y busybox true
run --pull foo busybox true
run -it busybox true
run -d -a stdout busybox true
run --ulimit x busybox
run --rm --ulimit nofile=5:3 busybox true
run --cpus x busybox
run -m x busybox
run --health-interval x busybox
run --rm --no-healthcheck --health-cmd x busybox true
run --add-host x busybox
run --dns x busybox
run --sysctl x busybox
run --rm --user nosuch busybox true
run --rm --security-opt foo busybox true
run --rm --security-opt seccomp=/nonexist busybox true
run --rm --entrypoint echo busybox a b
run --rm --expose a busybox true
run --rm --device /dev/nosuch busybox true
run --rm --platform linux/arm64 busybox true
run --rm --sysctl net.ipv4.nosuch=1 busybox true
logs --since bogus runs
network rm -f nosuch
volume foo
exec -w /nosuch runs pwd
network create
network create bridge
network create --subnet 10.99.0.0/24 --gateway 10.98.0.1 x
network create --subnet 10.99.0.0/24 --ip-range 10.98.0.0/25 x
network create --gateway 10.98.0.1 x
network create -d macvlan -o macvlan_mode=x x
network create -d macvlan -o parent=lo x
network create -d macvlan -o parent=eth99 x
network connect nosuch runs
network disconnect bridge nosuch
images --tree -q
images --tree --no-trunc --format json
images --tree --digests
container prune
system prune
volume prune
image prune -a
network prune
stats --no-stream nosuch
update runs
update --memory 10m nosuch
attach nosuch
attach ended
events --foo
foo
container foo
--foo
-x
--log-level x ps
stop --time 3
ps -h
"""


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize("line", lines(LISTS))
def test_lists_look_like_dockers(stage: Engine, line: str) -> None:
    words = shlex.split(line)
    ours, theirs = comparable(stage.pier(*words)), comparable(stage.docker(*words))
    if words[0] in ("images", "image"):
        # Docker walks a Go map here: the names of one image come in any order.
        assert sorted(ours[1].splitlines()) == sorted(theirs[1].splitlines())
    else:
        assert ours == theirs


@pytest.mark.needs_docker28("no --tree before API 1.47")
@pytest.mark.parametrize("columns", [120, 50])
def test_the_tree_of_images_looks_like_dockers_and_says_what_is_in_use(stage: Engine, columns: int) -> None:
    used = "\x1b[38;5;0m\x1b[48;5;14m U \x1b[0m  \r"
    for options in ((), ("-a", "--filter", "dangling=true")):
        words = ("images", "--tree", *options)
        plain = stage.pier(*words).check().stdout
        assert plain.replace(" U   \n", "     \n") == stage.docker(*words).check().stdout
        seen = []
        for argv in (stage.pier_argv(*words), stage.docker_argv(*words)):
            with Terminal(argv, stage.client_environment(), 24, columns) as terminal:
                assert terminal.wait() == 0
                seen.append(terminal.seen.decode())
        assert seen[0].replace(used, "     \r") == seen[1]
        assert (used in seen[0]) == (not options and columns == 120)


@pytest.mark.parametrize("line", lines(INSPECTIONS))
def test_inspect_and_templates_print_what_docker_prints(stage: Engine, line: str) -> None:
    words = shlex.split(line)
    assert comparable(stage.pier(*words)) == comparable(stage.docker(*words))


_TREE = pytest.mark.needs_docker28("no --tree before API 1.47")
_ASKS = pytest.mark.only_pierhead("Docker's asks the registry, and says from which port")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[_TREE] if "--tree" in line else [_ASKS] if "--platform" in line else [])
        for line in lines(MISTAKES)
    ],
)
def test_a_mistake_is_answered_in_dockers_words(stage: Engine, line: str) -> None:
    words = shlex.split(line)
    status, out, errors = comparable(stage.pier(*words))
    assert (status, out, OURS.sub("", errors)) == comparable(stage.docker(*words))


OURS = re.compile(r"^  (check|map|reload) .*\n", re.MULTILINE)
"""Commands of Pierhead's own, in the list of a group's."""

HELPS = "ps", "container ls", "images", "logs", "rm", "network create", "network connect", "exec", "stop", "inspect"


@pytest.mark.parametrize("line", HELPS)
def test_help_is_dockers_page(stage: Engine, line: str) -> None:
    words = [*line.split(), "--help"]
    theirs, ours = stage.docker(*words).check(), stage.pier(*words).check()
    pages = theirs.lines, [text.replace("pier", "docker") for text in ours.lines]
    # Docker hides flags that the daemon at hand is too old for; what it shows must be here, as it shows it.
    flags = [{line.split("  ")[1] for line in page if line.lstrip().startswith("-")} for page in pages]
    assert flags[0] <= flags[1]
    assert pages[0][:8] == pages[1][:8]


@pytest.mark.only_pierhead("what else df says")
@pytest.mark.parametrize("verbose", [(), ("-v",)], ids=["short", "verbose"])
def test_df_begins_with_dockers_and_goes_on_with_every_byte_by_its_owner(
    stage: Engine, verbose: tuple[str, ...]
) -> None:
    ours, theirs = (comparable(run("system", "df", *verbose))[1] for run in (stage.pier, stage.docker))
    assert ours.startswith(theirs)
    said = {cells[0]: cells[-1] for cells in (BLANKS.split(line) for line in ours[len(theirs) :].splitlines()) if cells}
    assert {"Layers of several images", "Written by containers", "Volumes", "Database", "Engine"} <= set(said)
    assert said["Unaccounted"] == "0"
    assert ("IMAGE" in said) == bool(verbose)


@pytest.mark.only_pierhead("how much a removal has given back")
def test_removals_print_what_dockers_do_and_where_asked_how_much_was_given_back(stage: Engine) -> None:
    space = r"Total reclaimed space: [\d.]+[kM]?B\nFree space on the disk: [+-][\d.]+[kM]?B\n"

    for make, remove in (
        ("create --name removed busybox", "rm removed"),
        ("tag busybox removed:1", "rmi removed:1"),
        ("volume create removed", "volume rm removed"),
    ):
        said = []
        for client, option in ((stage.docker, []), (stage.pier, []), (stage.pier, ["--space"])):
            stage.docker(*make.split()).check()
            said.append(client(*remove.split(), *option).check().stdout)
        assert said[0] == said[1] == said[2][: len(said[0])]
        assert re.fullmatch(space, said[2][len(said[0]) :]), said
    for client in (stage.docker, stage.pier):
        stage.docker("volume", "create", "removed").check()
        said = client("volume", "prune", "-f", "--filter", "label!=a", "--filter", "all=1").check().stdout
        pattern = space if client == stage.pier else space.partition("Free")[0]
        assert re.fullmatch("Deleted Volumes:\nremoved\n\n" + pattern, said), said


def test_what_happened_is_told_alike(stage: Engine) -> None:
    window = ("--since", "10h", "--until", "0s", "--filter", "container=ended")
    theirs = stage.docker("events", *window).check().stdout
    assert theirs and stage.pier("events", *window).stdout == theirs
    window = (*window, "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
    assert stage.pier("events", *window).stdout == stage.docker("events", *window).stdout


def test_saved_images_are_the_same_and_load_says_the_same(stage: Engine, tmp_path: Path) -> None:
    stage.docker("save", "-o", str(tmp_path / "theirs"), "shown/image:v1").check()
    stage.pier("save", "-o", str(tmp_path / "ours"), "shown/image:v1").check()
    assert abs((tmp_path / "theirs").stat().st_size - (tmp_path / "ours").stat().st_size) < 4096
    said = [program("load", "-i", str(tmp_path / "ours")).check().stdout for program in (stage.docker, stage.pier)]
    assert said[0] == said[1] == "Loaded image: shown/image:v1\n"
    data = (tmp_path / "ours").read_bytes()
    assert stage.pier("load", stdin=data).check().stdout == said[0]


def test_a_pipe_ends_by_itself_and_keeps_every_byte(stage: Engine) -> None:
    data = bytes(range(256)) * 4096
    done = stage.pier("run", "--rm", "-i", "busybox", "sha256sum", stdin=data)
    assert done.lines == stage.docker("run", "--rm", "-i", "busybox", "sha256sum", stdin=data).check().lines
    done = stage.pier("exec", "-i", "runs", "wc", "-c", stdin=data)
    assert done.stdout.strip() == str(len(data))
