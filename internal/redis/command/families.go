package command

// DataFamilies returns the rows of all families that are about data, and
// those of COMMAND.
func DataFamilies() [][]Spec {
	return [][]Spec{
		stringCommands, bitmapCommands, hashCommands, setCommands, listCommands, zsetCommands,
		keysCommands, dumpCommands, objectCommands, scanCommands, sortCommands,
		transactionCommands, pubsubCommands, commandsCommands, clusterClientCommands, migrateCommands,
	}
}
