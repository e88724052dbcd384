package config

// Parse reads YAML on top of the defaults, without validating the values.
func Parse(raw []byte) (*Config, error) {
	c := Default()
	found, err := parse(raw, c)
	if err != nil {
		return nil, err
	}
	return c, found.Err()
}
