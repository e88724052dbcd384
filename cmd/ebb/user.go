package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"ebb/adminapi"
)

var userAddCommand = command{
	name: "user add", args: "USER", short: "create an account", example: "ebb user add --admin alice",
	setup: func(inv *invocation) func(context.Context) error {
		admin := inv.flags.Bool("admin", false, "create an administrator account")
		service := inv.flags.Bool("service", false, "create an account for a program, without password: see ebb token issue")
		fromStdin := inv.passwordFlag()
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			password := ""
			if !*service {
				if password, err = inv.password(*fromStdin); err != nil {
					return err
				}
			}
			var made adminapi.User
			if err := inv.call(ctx, "user add", adminapi.UserArgs{User: user, Password: password, Admin: *admin, Service: *service}, &made); err != nil {
				return err
			}
			_, err = fmt.Fprintln(inv.stdout, made.User)
			return err
		}
	},
}

var userListCommand = listCommand("user list", "list accounts", func(w io.Writer, u adminapi.User) {
	fmt.Fprintf(w, "%-40s %s%s%s\n", u.User, u.Created.Format("2006-01-02"), mark(u.Admin, " admin"), mark(u.Deactivated, " deactivated")+mark(u.Locked, " locked")+mark(u.Suspended, " suspended")+mark(u.Guest, " guest")+mark(u.MFA != "", " mfa:"+u.MFA))
})

func mark(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

var userPasswdCommand = command{
	name: "user passwd", args: "USER", short: "set a password", example: "ebb user passwd --sign-out alice",
	setup: func(inv *invocation) func(context.Context) error {
		signOut := inv.flags.Bool("sign-out", false, "log out all devices of the user")
		fromStdin := inv.passwordFlag()
		hashed := inv.flags.Bool("hash-stdin", false, "read a bcrypt hash of another server from standard input instead of a password")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			if *hashed && *signOut {
				return usagef("--hash-stdin sets no new password, so that no device is signed out: leave out --sign-out")
			}
			password, err := inv.password(*fromStdin || *hashed)
			if err != nil {
				return err
			}
			args := adminapi.UserArgs{User: user, Password: password, SignOut: *signOut}
			if *hashed {
				args.Password, args.Hash = "", password
			}
			return inv.call(ctx, "user passwd", args, &struct{}{})
		}
	},
}

var userAdminCommand = command{
	name: "user admin", args: "USER", short: "make a user an administrator, or with --remove an ordinary user", example: "ebb user admin --remove alice",
	setup: func(inv *invocation) func(context.Context) error {
		remove := inv.flags.Bool("remove", false, "take the rights away")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			return inv.call(ctx, "user admin", adminapi.UserArgs{User: user, Admin: !*remove}, &struct{}{})
		}
	},
}

var userDeactivateCommand = command{
	name: "user deactivate", args: "USER", short: "deactivate an account permanently", example: "ebb user deactivate --erase alice",
	setup: func(inv *invocation) func(context.Context) error {
		erase := inv.flags.Bool("erase", false, "show the user's messages as redacted to anybody who joins a room later")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			return inv.call(ctx, "user deactivate", adminapi.UserArgs{User: user, Erase: *erase}, &struct{}{})
		}
	},
}

var (
	userLockCommand      = standingCommand("user lock", "lock an account, so that it cannot be used until it is unlocked")
	userUnlockCommand    = standingCommand("user unlock", "unlock a locked account")
	userSuspendCommand   = standingCommand("user suspend", "suspend a user, who can then read but not send")
	userUnsuspendCommand = standingCommand("user unsuspend", "end a suspension")
)

// standingCommand returns a command that changes the standing of the user given as its only argument.
func standingCommand(name, short string) command {
	return command{
		name: name, args: "USER", short: short, example: "ebb " + name + " alice",
		setup: func(inv *invocation) func(context.Context) error {
			return func(ctx context.Context) error {
				user, err := inv.one("user")
				if err != nil {
					return err
				}
				return inv.call(ctx, name, adminapi.UserArgs{User: user}, &struct{}{})
			}
		},
	}
}

func (inv *invocation) passwordFlag() *bool {
	return inv.flags.Bool("password-stdin", false, "read the password from standard input instead of prompting")
}

// password prompts for a password twice at a terminal, or reads one line from standard input.
func (inv *invocation) password(fromStdin bool) (string, error) {
	tty, isFile := inv.stdin.(*os.File)
	if fromStdin || !isFile || !term.IsTerminal(int(tty.Fd())) {
		if !fromStdin {
			return "", usagef("cannot prompt for the password without a terminal: use --password-stdin")
		}
		line, err := bufio.NewReader(inv.stdin).ReadString('\n')
		if err != nil && line == "" {
			return "", usagef("standard input contains no password")
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	first, err := inv.ask(tty, "Password: ")
	if err != nil {
		return "", err
	}
	second, err := inv.ask(tty, "Again: ")
	if err == nil && first != second {
		err = usagef("the two passwords differ")
	}
	return first, err
}

func (inv *invocation) ask(tty *os.File, prompt string) (string, error) {
	fmt.Fprint(inv.stderr, prompt)
	raw, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(inv.stderr)
	return string(raw), err
}
