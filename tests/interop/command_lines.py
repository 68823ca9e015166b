"""The command lines that command_line.py gives to both programs.

| written | means |
| --- | --- |
| `DIR` | the directory of the side's areas |
| `PID`, `PID2` .. | the first, the second .. process that is guarded |
| `SPACE`, `EMPTY` | a space in a word, an empty word |
| `apart:` | the two must differ: docs/compatibility.md says in what |
| `first:` | the first line alone is compared: what follows is memory of sanlock's where nothing was read |
| `full:` | standard output takes nothing; the exit status is compared |
| `!command ..` | stays, and is guarded |
| `@` | said to the second daemon of the side, which `second` starts |
| `kill N` | ends the Nth guarded process |
| `copy A over B`, `cut A LENGTH over B`, `poke A OFFSET HEX` | what is done to the side's areas in between |
"""

# Nobody is there to answer.
WITHOUT_DAEMON = r"""
status
gets
host_status
renewal -s LS
log_dump
version
inquire -p 1
add_lockspace -s LS:1:DIR/space:0
read -s x:0:DIR/space:0
shutdown -f 1
lookup -x LS:DIR/blank:0 -e a
format -x LS:DIR/blank:0
create -x LS:DIR/blank:0 -e a
delete -x LS:DIR/blank:0 -e a
update -x LS:DIR/blank:0 -e a:2M
rebuild -x LS:DIR/blank:0
command -r LS:r1:DIR/leases:1M -c /bin/true
inq_lockspace -s LS:1:DIR/space:0
align -s x:0:DIR/space:0
host_status -s LS
client version
read -r LS:r1:DIR/leases:1M -h 1
full: status
full: gets
"""

# Without a daemon in any case, on an index of either side's own making.
DIRECT = r"""
direct init -s NEW:0:DIR/blank:0
direct read_leader -s NEW:1:DIR/blank:0
direct read_leader -s NEW:2000:DIR/blank:0
direct init -s NEW:1:DIR/blank:0 -o 7
direct read_leader -s NEW:1:DIR/blank:0
direct init -r LS:r:DIR/blank:1M
direct read_leader -r LS:r:DIR/blank:1M
direct dump DIR/blank:1M
direct init -r LS:r:DIR/blank:1M -n 5
direct read_leader -r LS:r:DIR/blank:1M
direct init -r LS:r:DIR/blank:1M:77 -n 3000
direct read_leader -r LS:r:DIR/blank:1M
direct init -r LS:r:DIR/blank:1M -z 1
direct init
direct init -s NEW
direct init -r LS:r
direct init -r LS:r:DIR/blank
direct init -s NEW:0:DIR/nowhere:0
direct init -r LS:r:DIR/nowhere:0
direct init -s NEW:0:DIR/blank:100
direct init -r LS:r:DIR/blank:100
direct init -s NEW:0:DIR/blank:512
direct init -s NEW:0:DIR/blank:0 -Z 4096 -A 8M
direct read_leader -s NEW:1:DIR/blank:0 -Z 4096 -A 8M
direct init -s NEW:0:DIR/blank:0 -Z 4096
direct init -s NEW:0:DIR/blank:0 -A 1M
direct init -r LS:r:DIR/blank:0 -Z 512
direct init -r LS:a:DIR/blank:2M -r LS:b:DIR/blank:3M
direct dump DIR/blank:2M
direct init -s NEW:0:DIR/blank:0 -r LS:c:DIR/blank:3M
direct dump DIR/blank:2M
direct init -s NEW:0:DIR:0
direct init -r LS:r:DIR:0
direct format -x LS:DIR/blank:0
direct lookup -x LS:DIR/blank:0
direct update -x LS:DIR/blank:0 -e u:5M
direct lookup -x LS:DIR/blank:0 -e u
direct lookup -x LS:DIR/blank:0 -e :5M
direct lookup -x LS:DIR/blank:0 -e none
direct lookup -x LS:DIR/blank:0 -e v:5M
direct dump DIR/blank -f 1
direct update -x LS:DIR/blank:0 -e u:5M -z 1
direct lookup -x LS:DIR/blank:0 -e :5M
direct update -x LS:DIR/blank:0
direct update -x LS:DIR/blank:0 -e u
direct update -x LS:DIR/blank:0 -e u:77
direct rebuild -x LS:DIR/blank:0
direct rebuild
direct lookup
direct format
direct format -x LS:DIR/nowhere:0
direct lookup -x LS:DIR/nowhere:0 -e a
direct rebuild -x LS:DIR/nowhere:0
direct update -x LS:DIR/nowhere:0 -e u:5M
direct lookup -x LS:DIR/blank:6M -e a
direct lookup -x NO:DIR/blank:0 -e a
direct lookup -x LS:DIR/blank:100 -e a
direct lookup -x LS:DIR/blank:20M -e a
direct lookup -x LS:DIR/blank:0 -e :77
direct format -x LS:DIR/blank:100
direct format -x LS:DIR/blank:0 -Z 4096
direct format -x LS:DIR/blank:0 -Z 4096 -A 1M
direct lookup -x LS:DIR/blank:0
direct lookup -x LS:DIR/blank:0 -Z 4096 -A 1M
direct format -x LS:DIR/blank:0
direct create -x LS:DIR/blank:0 -e a
direct delete -x LS:DIR/blank:0 -e a
direct no_such_action
direct status
direct version
direct create -x LS:DIR/blank:0 -e a
direct init -s NEW:0:DIR/blank:18446744073709551615M
direct init -s NEW:0:DIR/blank:99999999999999999999M
direct init -s NEW:0:DIR/blank:9223372036853727232
direct init -r LS:r:DIR/blank:18446744073708503040
direct init -r LS:r:DIR/blank:-1
direct init -s NEW:0:DIR/blank:1MB
direct read_leader -s NEW:1:DIR/blank:1048576
direct init -s NEW -r LS:r:DIR/blank:2M
direct read_leader -s NEW -r LS:r:DIR/blank:2M
direct init -s NEW:0:DIR/blank:0 -o -1
direct init -s NEW:0:DIR/blank:0 -o 4294967306
direct init -s NEW:0:DIR/blank:0 -o x
direct read_leader -s NEW:7:DIR/blank:0
direct init -r LS:r:DIR/blank:0 -n 5x
direct read_leader -r LS:r:DIR/blank:0
direct init -r LS:r:DIR/blank:0 -n -1
direct init -r LS:r:DIR/blank:0 -n 4294967297
direct read_leader -r LS:r:DIR/blank:0
direct init -r LS:r:DIR/blank:0 -m 5
direct read_leader -r LS:r:DIR/blank:0
direct init -r LS:r:DIR/blank:0:SH
direct init -r LS:r:DIR/blank:0 -z 0
direct read_leader -r LS:r:DIR/blank:0
direct init -r LS:z:DIR/blank:0 -z 1
copy leases over blank
direct init -r LS:z:DIR/blank:0 -z 1
direct dump DIR/blank:1M:3M
copy empty over blank
direct init -r LS:z:DIR/blank:0 -z 1
direct dump DIR/blank
copy space over a:b
copy leases over l:m
copy leases over sSPACEp
direct read_leader -s LS:1:DIR/a\:b:0
direct read_leader -r LS:r1:DIR/l\:m:1048576
direct read_leader -r LS:r1:DIR/sSPACEp:1M
direct init -r LS:new:DIR/l\:m:2097152
direct dump DIR/l\:m:2M:1M
direct dump DIR/l\:m
direct dump DIR/l\:m:38M
direct dump DIR/l\:m:38M:1M
direct dump DIR/l:m
direct dump DIR/sSPACEp:38M
direct dump DIR/s\SPACEp:38M
direct format -x LS:DIR/l\:m:4M
direct update -x LS:DIR/l\:m:4M -e u:7M
direct lookup -x LS:DIR/l\:m:4194304 -e u:7MB
direct lookup -x LS:DIR/l\:m:4M -e :7M
direct dump DIR/leases:39M
direct dump DIR/leases:39M:0
direct dump DIR/leases:38M:1
direct dump DIR/leases:38M:513
direct dump DIR/leases:38M:1M
direct dump DIR/leases:38M:1048577
direct dump DIR/leases:37M:2097151
direct dump DIR/leases:38M:1MB
direct dump DIR/leases:38M:M
direct dump DIR/leases:38M:1M:7
direct dump DIR/leases:38MB
direct dump DIR/leases:38MM
direct dump DIR/leases:38m
direct dump DIR/leases:SPACE39M
direct dump DIR/leases:+39M
direct dump DIR/leases:M
direct dump DIR/leases:
direct dump DIR/leases::1M
direct dump DIR/leases:0x100000
direct dump DIR/leases:1
direct dump DIR/leases:512
direct dump DIR/leases:-1
direct dump DIR/leases:40M
direct dump DIR/leases:41M
direct dump DIR/leases:42M
direct dump DIR/leases:99999999999999999999
direct dump DIR/leases:18446744073709551615
direct dump DIR/leases:18446744073708503040
direct dump DIR/leases:8796093022207M
direct dump DIR/leases:9223372036853727232
direct dump DIR/nowhere
direct dump DIR
direct dump /dev/null
direct dump EMPTY
direct dump :0
direct dump
direct dump -f 1
direct dump -f 1 DIR/space
direct dump DIR/leases DIR/space
direct dump DIR/space -f
direct dump DIR/space -j
direct dump DIR/space -D
direct dump DIR/space -f -1
direct dump DIR/space -f x
direct dump DIR/empty
direct dump DIR/empty -Z 512
direct dump DIR/empty -Z 512 -A 1M
direct dump DIR/empty:0:2M -Z 512 -A 1M
direct dump DIR/leases:38M -Z 512
direct dump DIR/leases:38M -Z 512 -A 1M
direct dump DIR/leases:38M -A 1M
poke leases 0 0000
direct dump DIR/leases
direct dump DIR/leases:0:3M
poke leases 0 1020
first: direct read_leader
first: direct read_leader -s LS
first: direct read_leader -s LS:1
first: direct read_leader -r LS:r1
first: direct read_leader -s LS:1:DIR/nowhere:0
first: direct read_leader -r LS:r1:DIR/nowhere:0
first: direct read_leader -r LS:r1:DIR/no/where:0
first: direct read_leader -s LS:1:DIR:0
first: direct read_leader -r LS:r1:DIR:0
first: direct read_leader -r LS:r1:/dev/null:0
direct read_leader -s LS:1:DIR/empty:0
direct read_leader -s LS:1:DIR/empty:0 -Z 4096
direct read_leader -s LS:1:DIR/empty:0 -Z 512 -A 1M
direct read_leader -r LS:r1:DIR/empty:0
direct read_leader -s LS:1:DIR/leases:0
direct read_leader -s LS:3:DIR/leases:0
direct read_leader -r LS:r1:DIR/space:0
direct read_leader -s OTHER:1:DIR/space:0
direct read_leader -s :1:DIR/space:0
direct read_leader -r LS:other:DIR/leases:1M
direct read_leader -r OTHER:r1:DIR/leases:1M
direct read_leader -r LS::DIR/leases:1M
direct read_leader -r ::DIR/leases:1M
first: direct read_leader -s LS:0:DIR/space:0
direct read_leader -s LS:2000:DIR/space:0
direct read_leader -s LS:2001:DIR/space:0
direct read_leader -s LS:4000:DIR/space:0
direct read_leader -s LS:-1:DIR/space:0
direct read_leader -s LS:9223372036854775807:DIR/space:0
direct read_leader -s LS:1:DIR/space:512
direct read_leader -s LS:1:DIR/space:100
direct read_leader -s LS:1:DIR/space:100M
direct read_leader -s LS:1:DIR/space:9223372036854775807
first: direct read_leader -r LS:r1:DIR/leases:1048676
direct read_leader -r LS:r1:DIR/leases:1049088
first: direct read_leader -r LS:r1:DIR/leases:100M
first: direct read_leader -r LS:r1:DIR/leases:99999999999999999999M
first: direct read_leader -r LS:r1:DIR/leases:18446744073708503040
direct read_leader -s LS:2:DIR/space:0 -Z 4096 -A 1M
direct read_leader -r LS:r1:DIR/leases:1M -Z 4096 -A 8M
direct read_leader -s LS:1:DIR/space:0 -r LS:r1:DIR/leases:1M
direct read_leader -r LS:r1:DIR/leases:1M -r LS:r2:DIR/leases:2M
direct read_leader -r LS:r1:DIR/leases:1M:SH
direct read_leader -r LS:r1:DIR/leases:1M:7
copy leases over damaged
copy space over lost
poke damaged 1048744 01020304
direct read_leader -r LS:r1:DIR/damaged:1M
direct read_leader -r LS:other:DIR/damaged:1M
poke damaged 2097152 11201506
direct read_leader -r LS:r2:DIR/damaged:2M
poke damaged 3145732 04000900
direct read_leader -r OTHER:r3:DIR/damaged:3M
poke damaged 4194384 58
direct read_leader -r LS:r4:DIR/damaged:4M
poke damaged 5242892 00100000
direct read_leader -r LS:r5:DIR/damaged:5M
poke damaged 6291456 16202811
direct read_leader -r LS:r6:DIR/damaged:6M
direct dump DIR/damaged:0:9M
direct dump DIR/damaged
poke lost 168 01020304
direct read_leader -s LS:1:DIR/lost:0
poke lost 512 11202112
direct read_leader -s LS:2:DIR/lost:0
poke lost 1028 04000900
direct read_leader -s LS:3:DIR/lost:0
poke lost 1584 58
direct read_leader -s LS:4:DIR/lost:0
poke lost 4096 0000
direct read_leader -s LS:2:DIR/lost:0 -Z 4096 -A 1M
poke lost 0 0000
direct read_leader -s LS:2:DIR/lost:0
direct read_leader -s LS:2:DIR/lost:0 -Z 512 -A 1M
copy empty over blank
apart: direct init -r LS:r:DIR/blank:17592186044416M
copy empty over blank
apart: direct init -s NEW:0:DIR/blank:0 -o 300
apart: direct init -s :0:DIR/blank:0
apart: direct init -r LS:r:DIR/blank:0:DIR/blank:1M
apart: direct format -x :DIR/blank:0
copy empty over blank
direct format -x LS:DIR/blank:0
direct update -x LS:DIR/blank:0 -e u:5M
apart: direct update -x LS:DIR/blank:0 -e v:18446744073709551615M
apart: direct lookup -x LS:DIR/blank:0 -e :17592186044416M
apart: direct lookup -x LS:DIR/blank:17592186044416M -e u
copy empty over blank
apart: direct init -r LS:r:DIR/l\:m:6M
apart: direct init -s NEW:0:DIR/a\:b:2M
apart: direct read_leader -r LS:r1:DIR/l\:m:1M
apart: direct read_leader -r LS:r1:DIR/nowhere:0
apart: direct read_leader -r LS:r1:DIR/leases:1M:DIR/leases:2M
apart: direct dump DIR/leases:17592186044416M
apart: direct dump DIR/leases:18446744073709551615M
apart: direct dump DIR/leases:38M -Z 4096 -A 8M
cut leases 700000 over short
apart: direct dump DIR/short
cut leases 512 over short
apart: direct read_leader -r LS:r0:DIR/short:0
apart: direct next_free DIR/leases -Z 512 -A 1M
apart: direct next_free DIR/blank
apart: direct write_leader -r LS:r1:DIR/damaged:1M -F /dev/null
apart: direct write_leader -s LS:1:DIR/lost:0 -F /dev/null -f 1
apart: direct acquire -r LS:r8:DIR/damaged:8M -i 1 -g 1
apart: direct release -r LS:r8:DIR/damaged:8M
apart: direct acquire_id -s LS:8:DIR/lost:0 -e host
apart: direct renew_id -s LS:8:DIR/lost:0 -e host
apart: direct release_id -s LS:8:DIR/lost:0 -e host
full: direct dump DIR/leases
full: direct read_leader -s LS:1:DIR/space:0
"""

# To a daemon of the side's own.
LINES = r"""
version
gets
status
read -s LS:0:DIR/space:0 -D
read -s :0:DIR/space:0
read -r LS:r0:DIR/leases:0 -D
read -r :: -D
read -r LS:other:DIR/leases:0
read -r LS:r1:DIR/leases:1M
align -s x:0:DIR/space:0
inq_lockspace -s LS:1:DIR/space:0
add_lockspace -s LS:0:DIR/space:0
add_lockspace -s LS:2001:DIR/space:0
add_lockspace -s LS:1:DIR/space:0 -o 1
add_lockspace -s LS:1:DIR/space:0 -o 1
add_lockspace -s OTHER:1:DIR/nowhere:0
inq_lockspace -s LS:1:DIR/space:0
gets
gets -h 1
status
status -D
status -o p
status -o s
host_status
host_status -s LS
host_status -s LS -D
host_status -s NO
renewal
renewal -s NO
renewal -s LS
renewal -s LS:1:DIR/space:0
renewal -s :1:DIR/space:0
log_dump
log_dump -D
acquire -r LS:r0:DIR/leases:0 -p 1
inquire -p 1
release -a 1 -p 1
read -r LS:r1:DIR/leases:1M -h 1
read -r LS:r1:DIR/leases:1M -h 1 -D
!command -r LS:r1:DIR/leases:1M -c /bin/sleep 1000
read -r LS:r1:DIR/leases:1M -h 1
read -r LS:r1:DIR/leases:1M -h 1 -D
read -r LS:r1:DIR/leases:1M -h 0
read -r LS:r1:DIR/leases:1M:7 -h -1
read -r :r1:DIR/leases:1M -h 1
read -r LS:other:DIR/leases:1M -h 1
read -r LS:r1:DIR/blank:0 -h 1
read -r LS:r1:DIR/nowhere:0 -h 1
read -r LS:r1 -h 1
read -s LS:1:DIR/space:0 -h 1
inquire -p PID
inquire -p PID -D
acquire -r LS:r2:DIR/leases:2M -p PID
acquire -r LS:r2:DIR/leases:2M -p PID
acquire -r LS:r3:DIR/leases:3M:SH -p PID
acquire -r LS:r4:DIR/leases:4M:7 -p PID
acquire -r LS:r39:DIR/leases:99M -p PID
acquire -r LS:r5 -p PID
inquire -p PID -D
status
status -D
status -o p
status -o s
!command -r LS:r10:DIR/leases:10M -r LS:r11:DIR/leases:11M:SH -c /bin/sleep 1000
!command -r LS:r12:DIR/leases:12M -r LS:r11:DIR/leases:11M:SH -c /bin/sleep 1000
acquire -r LS:r14:DIR/leases:14M -p PID3
acquire -r LS:r13:DIR/leases:13M -p PID2
acquire -r LS:r15:DIR/leases:15M:SH -p PID3
acquire -r LS:r15:DIR/leases:15M:SH -p PID2
acquire -r LS:r16:DIR/leases:16M -p PID3 -P 1
acquire -r LS:r17:DIR/leases:17MB -n 9 -p PID3
read -r LS:r11:DIR/leases:11M -h 1
read -r LS:r11:DIR/leases:11M -h 1 -D
read -r LS:r17:DIR/leases:17M -h 1
inquire -p PID2 -D
inquire -p PID3 -D
status
status -o p
status -o s
status -o p -D
status -o s -D
status -o ps
status -o sp
status -o P
status -o EMPTY
command -r LS:r10:DIR/leases:10M -c /bin/echo yes
command -r LS:r11:DIR/leases:11M -c /bin/echo yes
command -r LS:r11:DIR/leases:11M:SH -c /bin/echo yes
command -r LS:r20:DIR/leases:20M -c /bin/echo yes
command -r LS:r21:DIR/leases:21M -P 0 -O 1 -n 4 -c /bin/echo yes
command -r LS:r20:DIR/leases:20M:77 -c /bin/echo yes
command -r LS:r22:DIR/leases:22M -c /bin/false
command -r LS:r23:DIR/leases:23M -c /bin/sh -c exitSPACE7
command -r LS:r20 -c /bin/echo yes
command -r NO:r20:DIR/leases:20M -c /bin/echo yes
command -r LS:other:DIR/leases:20M -c /bin/echo yes
command -r LS:r20:DIR/nowhere:0 -c /bin/echo yes
command -c /bin/echo yes
command -r LS:r20:DIR/leases:20M -c
apart: command -r LS:r24:DIR/leases:24M -c DIR/nowhere
apart: command -r LS:r25:DIR/leases:25M -c echo yes
apart: command -r bad -c /bin/echo yes
acquire -r LS:r20:DIR/leases:18446744073709551615M -p PID2
acquire -r LS:r20:DIR/leases:99999999999999999999M -p PID2
acquire -r LS:r20:DIR/leases:-1M -p PID2
acquire -r bad -r LS:r26:DIR/leases:26M -p PID2
release -r LS:r26:DIR/leases:26M -p PID2
kill 3
status -o p
status -o s
release -O 1 -s LS -p PID2
acquire -r LS:r19:DIR/leases:19M -p PID2 -P 1
acquire -r LS:r18:DIR/leases:18M -p PID2
release -a 1 -O 1 -p PID2
release -a 1 -r LS:r18:DIR/leases:18M -p PID2
inquire -p PID2
kill 2
full: status -D
full: gets
full: command -r LS:r27:DIR/leases:27M -c /bin/echo yes
full: acquire -r LS:r28:DIR/leases:28M -p PID
release -r LS:r28:DIR/leases:28M -p PID
convert -r LS:r3:DIR/leases:3M -p PID
convert -r LS:r2:DIR/leases:2M:SH -p PID
convert -r LS:r9:DIR/leases:9M -p PID
read -r LS:r1:DIR/leases:1M
inquire -p PID
request -r LS:r9:DIR/leases:9M -f 2
request -r LS:r1:DIR/leases:1M:9 -f 9
examine -s LS
examine -s LS:1:DIR/space:0
examine -r LS:r1:DIR/leases:1M
set_event -s LS -i 2 -g 1 -e 0x5 -d 7
set_event -s LS -i 2 -g 1 -e 6 -d 7
set_event -s LS -i 0 -e 6
set_event -s NO -i 2 -e 6 -d 010
set_config -s LS -u 1
set_config -s LS -u 0
set_config -s LS -O 1
set_config -s LS -O 0
set_config -s LS
set_config -s NO -u 1
release -r LS:r2:DIR/leases:2M -p PID
release -r LS:r2:DIR/leases:2M -p PID
release -a 1 -p PID
inquire -p PID
acquire -r LS:r6:DIR/leases:6M -p PID -P 1
release -O 1 -r LS:r6:DIR/leases:6M -p PID
release -O 1 -s LS -p PID
init -r LS:new:DIR/blank:0
init -r LS:new:DIR/blank:0 -n 5
read -r LS:new:DIR/blank:0
init -r LS:new:DIR/blank:0 -z 1
read -r LS:new:DIR/blank:0
init -s NEW:0:DIR/blank:1M -o 7
read -s NEW:0:DIR/blank:1M -D
init -s NEW:0:DIR/nowhere:0
init -r LS:r7:DIR/leases:7M -m 8 -Z 512 -A 1M
format -x LS:DIR/blank:0
create -x LS:DIR/blank:0 -e a
create -x LS:DIR/blank:0 -e b
lookup -x LS:DIR/blank:0
lookup -x LS:DIR/blank:0 -e a
client lookup -x LS:DIR/blank:0 -e b
lookup -x LS:DIR/blank:0 -e a:2097152
lookup -x LS:DIR/blank:0 -e :3M
lookup -x LS:DIR/blank:0 -e a:3M
lookup -x LS:DIR/blank:0 -e none
lookup -x LS:DIR/blank:0 -e :77
update -x LS:DIR/blank:0 -e u:5M
lookup -x LS:DIR/blank:0 -e u
lookup -x LS:DIR/blank:0 -e u:5MB
lookup -x LS:DIR/blank:0M -e u:5:6
lookup -x LS:DIR/blank:0 -e u:18446744073709551615M
lookup -x LS:DIR/blank:99999999999999999999M -e u
lookup -x LS:DIR/blank:18446744073709551615M -e u
create -x LS:DIR/blank:18446744073709551615M -e u
update -x LS:DIR/blank:0 -e u:5M -z 0
update -x LS:DIR/blank:0 -e u
delete -x LS:DIR/blank:0 -e b
delete -x LS:DIR/blank:0 -e b
delete -x LS:DIR/blank:0
rebuild -x LS:DIR/blank:0
lookup -x LS:DIR/blank:0 -e a
create -x NO:DIR/blank:0 -e a
lookup -x LS:DIR/blank:4M
format -x LS:DIR/blank:4M
lookup -x LS:DIR/blank:4M
format
rebuild
lookup
create -e a
format -x LS
format -x :DIR/blank:0
format -x LS::0
format -x LS:DIR/blank:0 -Z 4096
shutdown
shutdown -w 1
shutdown -w 3 -f x
inq_lockspace -s LS:1:DIR/space:0
no_such_action
client status
client no_such_action -s x
status -j 1
status -Dx
status -p
status -Z 512 -A 2M
status -A 1M
status -Z 4096
second
@add_lockspace -s LS:2:DIR/space:0 -o 1
@gets -h 1
@host_status -s LS -D
@host_status -D
acquire -r LS:r1:DIR/leases:1M -p PID
@read -r LS:r1:DIR/leases:1M -h 1
@command -r LS:r1:DIR/leases:1M -c /bin/echo yes
@command -r LS:r1:DIR/leases:1M:SH -c /bin/echo yes
@request -r LS:r1:DIR/leases:1M -f 2
@command -r LS:r30:DIR/leases:30M -c /bin/echo yes
@!command -r LS:r31:DIR/leases:31M:SH -c /bin/sleep 1000
acquire -r LS:r31:DIR/leases:31M:SH -p PID
read -r LS:r31:DIR/leases:31M -h 1
read -r LS:r31:DIR/leases:31M -h 1 -D
convert -r LS:r31:DIR/leases:31M -p PID
command -r LS:r31:DIR/leases:31M -c /bin/echo yes
copy empty over md5
copy empty over md6
init -r LS:md5:DIR/md5:0
init -r LS:md6:DIR/md6:0
@!command -r LS:md5:DIR/md5:0 -c /bin/sleep 1000
client command -r LS:md5:DIR/md5:0 -c /bin/rm -f DIR/md5
client command -r LS:md6:DIR/md6:0 -c /bin/rm -f DIR/md6
read -r LS:md5:DIR/md5:0
read -r LS:md6:DIR/md6:0
client command -r LS:md7:DIR/empty:0 -c /bin/rm -f DIR/empty
direct dump DIR/empty
@kill 5
@kill 4
release -r LS:r31:DIR/leases:31M -p PID
@shutdown -f 1 -w 1
kill 1
rem_lockspace -s LS:1:DIR/space:0
rem_lockspace -s LS:1:DIR/space:0
gets
shutdown -f 1 -w 1
"""

# To nobody who knows anything: what is asked is compared, byte for byte, and what is made of a failure.
HEARD = r"""
add_lockspace -s LS:1:/x:5
add_lockspace -s LS:1:/x:5M
add_lockspace -s LS:1:/x:5MB
add_lockspace -s LS:1:/x:5Mx
add_lockspace -s LS:1:/x:5xM
add_lockspace -s LS:1:/x:5m
add_lockspace -s LS:1:/x:5K
add_lockspace -s LS:1:/x:0x10
add_lockspace -s LS:1:/x:-1M
add_lockspace -s LS:1:/x:-1
add_lockspace -s LS:1:/x:99999999999999999999M
add_lockspace -s LS:1:/x:18446744073709551615M
add_lockspace -s LS:1:/x:99999999999999999999
add_lockspace -s LS:1M:/xM:5
add_lockspace -s LS:1:/xM:5M
add_lockspace -s LS:1:/x\:y:5
add_lockspace -s LS:1:/xSPACEy:5
add_lockspace -s LS:1:/x\SPACEy:5
add_lockspace -s LS\:T:1:/x:0
add_lockspace -s LS:1:/x
add_lockspace -s LS:1abc:/x:0
add_lockspace -s :1:/x:0
add_lockspace -s LS
add_lockspace -s EMPTY
add_lockspace
add_lockspace -s LS:1:/x:0 -o 10
add_lockspace -s LS:1:/x:0 -o 10x
add_lockspace -s LS:1:/x:0 -o 0
add_lockspace -s LS:1:/x:0 -o -1
add_lockspace -s LS:1:/x:0 -o 4294967306
add_lockspace -s LS:1:/x:0 -Z 4096 -A 8M
inq_lockspace -s LS:1:/x:0:7
inq_lockspace -s LS:1:/x:0 -Z 512 -A 1M
inq_lockspace
rem_lockspace -s LS
rem_lockspace -s LS:1:/x:0 -Z 512 -A 1M
align -s LS:1:/x:5M -Z 512 -A 1M
align -s x
align
acquire -p 77 -r LS:R:/x:5M
acquire -p 77 -r LS:R:/x:5MB
acquire -p 77 -r LS:R:/x:5xM
acquire -p 77 -r LS:R:/x:SPACE5M
acquire -p 77 -r LS:R:/x:0x5M
acquire -p 77 -r LS:R:/x:5M:SH
acquire -p 77 -r LS:R:/x:5M:7M
acquire -p 77 -r LS:R:/x:5:0x1f
acquire -p 77 -r LS:R:/x:5:SHx
acquire -p 77 -r LS:R:/x:5:sh
acquire -p 77 -r LS:R:/x:5M:/y:6
acquire -p 77 -r LS:R:/x:0:/y:1:/z:2:/w:3
acquire -p 77 -r LS:R:/x:0:/y:1:/z:2:/w:3:/v:4
acquire -p 77 -r LS:R:/x:99999999999999999999
acquire -p 77 -r LSM:RM:/x:5
acquire -p 77 -r LS:R:/xM:5M:SH
acquire -p 77 -r LS:R:/x:2M\
acquire -p 77 -r LS:R:/x\:y:5:SH
acquire -p 77 -r LS:R\:S:/x:5
acquire -p 77 -r LS:R:/x
acquire -p 77 -r LS:R
acquire -p 77 -r bad -r LS:R:/x:0
acquire -p 77 -r bad -j 1
acquire -p 77 -A 2M -r bad
acquire -p 77 -r LS:R:/x:0 -P 1 -O 1 -n 5
acquire -p 77 -r LS:R:/x:0 -P -1 -O -1 -n -3
acquire -p 77 -r LS:R:/x:0 -P 0 -O 4294967296 -n x
acquire -p 77 -r LS:R:/x:0 -Z 512 -A 1M
acquire -p 77 -r L:0:/x:0 -r L:1:/x:1 -r L:2:/x:2 -r L:3:/x:3 -r L:4:/x:4 -r L:5:/x:5 -r L:6:/x:6 -r L:7:/x:7 -r L:8:/x:8
acquire -p 77
acquire -r LS:R:/x:0
command -r LS:R:/x:0 -r LS:S:/x:1M:SH -P 1 -O 1 -n 4 -c /bin/true a b
command -r LS:R:/x:0 -D -c /bin/true -D -j
command -r LS:R -p 77 -c /bin/true
command -r bad -c
convert -p 77 -r LS:R:/x:0:SH -r LS:S:/x:0 -Z 512 -A 1M
convert -p 77 -r LS:R
convert -p 77 -r bad
release -p 77 -r LS:R:/x:0 -r LS:S:/x:0 -Z 512 -A 1M
release -p 77 -a 1
release -p 77 -a 2 -r LS:R:/x:0
release -p 77 -a 1 -O 1 -r LS:R
release -p 77 -a 0 -O 0 -r LS:R
release -p 77 -O 1
release -p 77 -O 1 -s LS
release -p 77 -O 1 -s LS -a 1
release -p 77 -O 1 -s LS:1:/x:0 -Z 512 -A 1M
release -p 77 -O 1 -s LS -r LS:R:/x:0
release -p 77 -O 1 -s :1:/x:0
release -p 77 -s LS
inquire
inquire -p 99999999999999999999
inquire -p 4294967297
inquire -p 2147483648
inquire -p -2
inquire -p +5
inquire -p SPACE7
inquire -p 7abc
inquire -p 0x10
inquire -p abc
inquire -p EMPTY
inquire -p 7 -p 8
request -r LS:R:/x:0 -f -1
request -r LS:R:/x:0:5 -f 4294967298
request -r LS:R:/x:0:SH -f 2x -Z 512 -A 1M
request -r LS:R
request -r bad
request
examine -s LS:1:/x:0 -r LS:R:/x:0 -Z 512 -A 1M
examine -s :1:/x:0
examine -s LS -r LS:R -Z 512 -A 1M
examine -s LS
examine
set_event -s LS:1:/x:0 -i 2 -g 3 -e 0X1F -d 0x -Z 512 -A 1M
set_event -s LS -i 99999999999999999999 -g -1 -e -1 -d 99999999999999999999
set_event -s LS -i 2x -g 3x -e 4x -d 5x
set_event -s LS -i 2 -e 08 -d +017
set_event -s LS -i 2 -e SPACE0x1f -d 1f
set_event -i 2 -e 1
set_config -s LS:1:/x:0 -u 1 -Z 512 -A 1M
set_config -s LS -u 0 -O 1
set_config -s LS -u 1 -O 0
set_config -s LS -u x
set_config -s LS -O -1
set_config -u 1
init -s LS:1:/x:0
init -s LS:1:/x:0 -o 0
init -s LS:1:/x:0 -o -1 -m -1 -n 7
init -s LS:1:/x:0 -o 4294967316 -m 300
init -s LS:1:/x:0 -z 1 -Z 4096
init -s LS:1:/x:0 -Z 512x
init -s LS:1:/x:0 -Z 0
init -s LS:1:/x:0 -s LT:2:/y:0
init -s LS:1:/x:0 -r LS:R:/x:0
init -s LS -r LS:R:/x:0
init -s LS:1
init -s :1:/x:0
init -r LS:R:/x:0 -n 5 -m 7
init -r LS:R:/x:0 -n -5 -m -7 -o 20
init -r LS:R:/x:0 -z 0 -Z 4096 -A 4M
init -r LS:R:/x:0 -Z 512 -A 1M
init -r LS:R
write -r LS:R:/x:0
read -s LS:1:/x:0 -Z 4096
read -s LS -r LS:R:/x:0:7 -Z 4096 -A 2M
read -s LS:1:/x:0 -r LS:R:/x:0 -h 1
read -s LS
read -r LS:R:/x:0:SH -h 1 -Z 4096 -A 2M
read -r LS:R:/x:0 -h 0
read -r LS:R:/x:0 -h x
read -r LS:R -h 1
read
apart: host_status
host_status -s LS:1:/x:0 -D -Z 512 -A 1M
apart: host_status -s :1:/x:0
apart: host_status -s EMPTY
renewal -s LS:1:/x:0 -Z 512 -A 1M
renewal -s :1:/x:0
gets -h 1
log_dump
shutdown -f 1
shutdown -f 1 -w 3
shutdown -f x -w x
shutdown -f 4294967296
format -x LS:/x:0 -m 7 -n 7
format -x LS:/x:5MB -Z 4096 -A 2M
format -x LS:/x\:y:5M
create -x LS:/x:0 -e R -n 9 -m 11 -Z 4096 -A 2M
create -x LS:/x:0 -e R:5M
create -x LS:/x:0
delete -x LS:/x:0 -e R:5MB -Z 4096 -A 2M
delete -x LS:/x:0 -e a\:b
lookup -x LS:/x:0 -x LT:/y:1 -Z 4096 -A 2M
lookup -x LS:/x
lookup -x LS\:T:/x:M -e R:M
lookup -x LS:/x:5xM -e R:5:6M
lookup -x LS:/x:-1 -e R:-1
lookup -x LS:/x:99999999999999999999 -e R:99999999999999999999
lookup -x LS:/x:0 -e RM:5
lookup -x LS:/x:0 -e 5M
lookup -x LS:/x:0 -e R\:S:5M
lookup -x LS:/xSPACEy:2M -e aSPACEb
update -x LS:/x:0 -e R:5M -Z 4096 -A 2M
update -x LS:/x:0 -e R:5M -z 0
rebuild -x LS:/x:0 -n 5 -Z 4096 -A 2M
version
version -D
version x
no_such_action
client no_such_action -j
client daemon
gets -j
gets -j 1
gets -jj 1
gets -
gets --
gets --help
gets -V
gets -é 1
gets -h1
gets -DD
gets -D 1
gets EMPTY
gets -c
gets -r
gets -s
gets -U no_such_user -G no_such_group
gets -Q 1 -R 1 -H 1 -L 1 -S 1 -F x -a 1 -t 1 -w 1 -h 0 -l 1 -b 1 -n 1 -m 1 -p 1 -i 1 -g 1 -e 1 -d 1 -f 1 -O 1 -P 1 -u 1 -z 1
gets -Z x -A 1M
gets -Z 5 -A 1M
gets -Z 0 -A 1M
gets -Z SPACE512 -A 1M
gets -A 1M
apart: add_lockspace -s LS:1:/x:17592186044416M
apart: add_lockspace -s LS:1:/x:M
apart: add_lockspace -s LS:1:/x:5:6M
apart: add_lockspace -s LS:1:/x\:y:5M
apart: acquire -p 77 -r LS:R:/x:99999999999999999999M
apart: acquire -p 77 -r LS:R:/x:M
apart: acquire -p 77 -r LS:R:/x:5:7M
apart: acquire -p 77 -r LS:R:/x:5:/y:6M
apart: acquire -p 77 -r LS:R:/x:5M:/y:6M
apart: acquire -p 77 -r LS:R:/x\:y:5M
apart: acquire -p 77 -r LS:R\:S:/x:2M
apart: lookup -x LS:/x:99999999999999999999M
apart: lookup -x LS:/x:0 -e R:18446744073709551615M
apart: gets -A 3M
apart: gets -A x
apart: gets -Z 5
apart: gets -Z 512 -A 3M
apart: help
apart: client
apart: direct
apart: --version
"""

# Options of the daemon: whether it runs.
DAEMON = r"""
-a 1
-a 0 -Q 0 -R 2 -H 0 -L -1 -S -1 -h 0 -t 2 -b 60
-Q 1 -R 1 -H 180 -L 4 -S 3 -h 1 -t 8 -b 0
-H -1 -t -1 -b -1 -a -1 -Q -1 -R -1
-w 0 -l 0 -e again -D -D
-g 0
-g 40
-g -1
-g 1000
-l -1
-o 20
-j 1
-X
-w
-Q
extra
--bogus
apart: -s LS:1:/x:0
apart: -c x
-U no_such_user
-G no_such_group
-U 0
apart: -e 0123456789012345678901234567890123456789012345678901234567
apart: -g x
apart: -w0
apart: -DD
apart: -o 0
apart: -o 300
apart: -w -1
"""

