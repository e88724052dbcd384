package web

import "strings"

// named is a part of a user agent and what the pages show for it.
type named struct{ part, name string }

// browsers are the browsers that the pages recognise, and a client that is made of one. Most also name those after them
// in the list.
var browsers = []named{
	{"Element/", "Element"}, {"Edg/", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
	{"CriOS/", "Chrome"}, {"Chromium/", "Chromium"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"},
}

// systems are the operating systems that the pages recognise. Android and phones of Apple also name others.
var systems = []named{
	{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"}, {"CrOS", "ChromeOS"}, {"Macintosh", "macOS"}, {"Linux", "Linux"},
}

// programOf returns what the pages show of a user agent: a browser and its system, or the name and version with which
// another program begins. It is what the program has claimed to be.
func programOf(agent string) string {
	const browser = "Mozilla/5.0 ("
	if !strings.HasPrefix(agent, browser) {
		name, _, _ := strings.Cut(agent, " (")
		return name
	}
	name, system := find(agent, browsers), find(agent, systems)
	switch {
	case name == "":
		return agent
	case system == "":
		return name
	}
	on, _ := text("device.on", name, system) // the name is known
	return on
}

// find returns the name of the first part that a text contains, or "".
func find(agent string, all []named) string {
	for _, n := range all {
		if strings.Contains(agent, n.part) {
			return n.name
		}
	}
	return ""
}
