"""The system calls of a judged program, by name: numbers on x86-64 and on 64-bit ARM, -1 where there is none.

From the kernel's own headers (asm/unistd_64.h, asm-generic/unistd.h). What a plain Python program needs and nothing that
reaches another process, a socket, a device, another program, or the attributes of files (Landlock does not guard those).
"""

from __future__ import annotations

COLUMN = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column below, and the name of the architecture

_TABLE = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 close_range:436:436 lseek:8:62
ftruncate:77:46 fsync:74:82 fdatasync:75:83 sendfile:40:71 dup:32:23 dup2:33:-1 dup3:292:24 pipe:22:-1 pipe2:293:59
open:2:-1 openat:257:56 access:21:-1 faccessat:269:48 faccessat2:439:439 fstat:5:80 lstat:6:-1 stat:4:-1
newfstatat:262:79 statx:332:291 statfs:137:43 fstatfs:138:44 getcwd:79:17 chdir:80:49 fchdir:81:50 readlink:89:-1
readlinkat:267:78 getdents:78:-1 getdents64:217:61 mkdir:83:-1 mkdirat:258:34 rmdir:84:-1 unlink:87:-1
unlinkat:263:35 rename:82:-1 renameat:264:38 renameat2:316:276 umask:95:166
mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216 brk:12:214 madvise:28:233
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 sigaltstack:131:132 alarm:37:-1 setitimer:38:103
getitimer:36:102 pause:34:-1 restart_syscall:219:128
poll:7:-1 ppoll:271:73 select:23:-1 pselect6:270:72 epoll_create:213:-1 epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232:-1 epoll_pwait:281:22 eventfd2:290:19 recvfrom:45:207 shutdown:48:210 nanosleep:35:101
clock_nanosleep:230:115 futex:202:98 sched_yield:24:124 rseq:334:293
getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177
getgroups:115:158 getrusage:98:165 times:100:153 uname:63:160 sysinfo:99:179 getrandom:318:278 clock_gettime:228:113
clock_getres:229:114 gettimeofday:96:169 time:201:-1 sched_getaffinity:204:123 getrlimit:97:163 getcpu:309:168
exit:60:93 exit_group:231:94
"""


def _numbers(table: str) -> dict[str, tuple[int, int]]:
    rows = (entry.split(":") for entry in table.split())
    return {name: (int(intel), int(arm)) for name, intel, arm in rows}


ALLOWED = _numbers(_TABLE)
# kernel.py says with which arguments
BY_ARGUMENT = _numbers(
    "fcntl:72:25 ioctl:16:29 socketpair:53:199 sendto:44:206 prlimit64:302:261 kill:62:129 tgkill:234:131"
)
