package command

// DataFamilies returns the rows of all families that are about data.
func DataFamilies() [][]Spec {
	return [][]Spec{stringCommands, bitmapCommands, hashCommands, setCommands, keysCommands, dumpCommands, objectCommands, scanCommands, sortCommands, transactionCommands, pubsubCommands}
}
